from pathlib import Path

import click
import pytest

from runner_spec.description import parse_description
from worker.cli.exit_status import InvalidInputError
from worker.cli.secret_options import read_secrets, require_secrets


def test_values_come_from_the_option_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes("grün\r\n".encode())
    secrets = read_secrets(
        ["npm/token=a=b"], ["npm/user=NPM_USER"], [f"git/ssh-privatekey={tmp_path}/key"], {"NPM_USER": "me"}
    )
    assert secrets == {"npm": {"token": "a=b", "user": "me"}, "git": {"ssh-privatekey": "grün\r\n"}}


@pytest.mark.parametrize("text", ["hunter2", "npm=hunter2", "/key=hunter2", "npm/=hunter2"])
def test_a_mistake_does_not_show_the_value(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        read_secrets([text], [], [])
    assert "hunter2" not in caught.value.format_message()
    assert "NAME/KEY" in caught.value.format_message()


def test_a_variable_that_is_not_set_is_an_error_that_names_it() -> None:
    with pytest.raises(click.BadParameter, match="'NPM_TOKEN' is not set"):
        read_secrets([], ["npm/token=NPM_TOKEN"], [], {})


def test_a_file_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="nowhere"):
        read_secrets([], [], [f"git/key={tmp_path}/nowhere"])
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(click.BadParameter, match="not UTF-8"):
        read_secrets([], [], [f"git/key={tmp_path}/binary"])


def test_every_secret_of_a_description_needs_a_value() -> None:
    description = parse_description(
        {
            "image": "x",
            "steps": [{"run": "true"}],
            "secrets": {"A": {"secret": "npm", "key": "a"}, "B": {"secret": "npm", "key": "b"}},
        }
    )
    with pytest.raises(InvalidInputError, match=r"secrets\.B: no value was given; add --secret-env npm/b=") as caught:
        require_secrets(description, {"npm": {"a": "1"}})
    assert "secrets.A" not in caught.value.message
    require_secrets(description, {"npm": {"a": "1", "b": "2"}})
