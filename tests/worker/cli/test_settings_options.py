import os
from collections.abc import Mapping
from dataclasses import fields

import click
import pytest
from click.testing import CliRunner

from gateway.settings import GatewaySettings, Limits
from worker.cli.services import gateway, worker
from worker.cli.settings_options import settings_options
from worker.settings import ENV_PREFIX, WorkerSettings


@click.command()
@settings_options((WorkerSettings,), ENV_PREFIX)
def show(environ: Mapping[str, str]) -> None:
    """Show what the settings become."""
    settings = WorkerSettings.load(environ)
    click.echo(f"{settings.capacity} {settings.queues} {settings.log_level}")


def test_a_flag_wins_over_the_variable_and_the_variable_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DYNAPOD_CAPACITY", "7")
    monkeypatch.setenv("DYNAPOD_QUEUES", "variable")
    result = CliRunner().invoke(show, ["--queues", "a,b"])
    assert result.output == "7 ('a', 'b') info\n"


def test_a_bad_flag_is_named_with_its_value() -> None:
    result = CliRunner().invoke(show, ["--capacity", "many"])
    assert result.exit_code == 2
    assert "'--capacity': 'many' cannot be used" in result.output


@pytest.mark.parametrize(
    ("command", "kinds", "prefix"),
    [(worker, (WorkerSettings,), "DYNAPOD_"), (gateway, (GatewaySettings, Limits), "DYNAPOD_GATEWAY_")],
)
def test_every_setting_is_in_the_help_once(command: click.Command, kinds: tuple[type, ...], prefix: str) -> None:
    text = CliRunner().invoke(command, ["--help"], terminal_width=400).output
    words = text.split()
    for field in [field for kind in kinds for field in fields(kind) if field.metadata]:
        assert words.count(f"--{field.name.replace('_', '-')}") == 1
        variable = f"{prefix}{field.name.upper()}"
        assert sum(word.rstrip(";]") == variable for word in words) == 1


def test_a_bad_variable_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAPOD_CAPACITY", "many")
    result = CliRunner().invoke(worker, [])
    assert result.exit_code == 2
    assert "DYNAPOD_CAPACITY: 'many'" in result.output
