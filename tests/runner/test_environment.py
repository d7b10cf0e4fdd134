"""Where the runner looks: where a pod has things, unless a variable says otherwise."""

from pathlib import Path

import pytest

from runner.environment import Environment
from runner.errors import TemporaryError
from runner_spec import anatomy
from runner_spec.plan import Plan

POD = {"HOME": "/dynapod/home", "DYNAPOD_GATEWAY": "http://g:8080"}


def test_a_pod_needs_to_name_no_path() -> None:
    assert Environment.read(POD) == Environment(
        workspace=Path("/workspace"),
        home=Path("/dynapod/home"),
        state=Path("/dynapod/state"),
        plan=Path("/dynapod/plan"),
        busybox=Path("/bin/busybox"),
        termination_log=Path("/dev/termination-log"),
        token=Path("/dynapod/token/token"),
        credentials=Path("/dynapod/credentials"),
        secrets=Path("/dynapod/secrets"),
        source=Path("/dynapod/source"),
        gateway="http://g:8080",
    )


def test_the_plan_says_whether_to_bring_the_shim_and_how_long_a_report_may_be() -> None:
    found = Environment.read(POD)
    told = found.planned(Plan("j", 1, shim=True, report_limit=700))
    assert (told.bin, told.report_limit) == (Path(anatomy.BIN_PATH), 700)
    # The folder exists all the same where the shim comes from a volume: it is a part of the runner's image.
    assert found.planned(Plan("j", 1, shim=False)).bin is None


def test_in_the_pod_of_an_older_worker_the_variables_say_it() -> None:
    """Its plan lacks both fields."""
    data = Plan("j", 1).to_json().replace('"report_limit":4096,"shim":false,', "")
    plan = Plan.from_json(data)
    assert "shim" not in data
    variables = {name: f"/folders{path}" for name, path in anatomy.PATHS.items()}
    found = Environment.read(POD | variables | {anatomy.ENV_REPORT_LIMIT: "2457"}).planned(plan)
    assert (found.bin, found.report_limit) == (Path("/folders/dynapod/bin"), 2457)
    fields = ("workspace", "state", "plan", "termination_log", "bin", "token", "credentials", "secrets", "source")
    assert [str(getattr(found, field)) for field in fields] == list(variables.values())
    del variables[anatomy.ENV_BIN]  # with the shim in a volume, such a worker named no folder to fill
    assert Environment.read(POD | variables).planned(plan).bin is None


def test_without_a_home_it_is_no_pod_of_dynapods() -> None:
    with pytest.raises(TemporaryError, match="HOME is not set: run this in a pod that dynapod rendered"):
        Environment.read({})
