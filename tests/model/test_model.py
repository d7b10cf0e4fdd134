"""All orders of all steps, and proof that the model can fail: sabotaged decisions are each found out.

`python -m tests.model 1 1 1` explores more; `tests/model/__init__.py` says what, and how long it takes.
"""

from typing import Any

import pytest

from runner_spec.ownership import End, Fate, Lookup, Meeting, Record, Start
from tests.model.exploration import Violated, explore
from tests.model.world import Configuration, Rules

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(Configuration(faults=1, failovers=0), id="one fault"),
        pytest.param(Configuration(faults=0, failovers=1), id="one failover"),
        pytest.param(Configuration(jobs=2, faults=0, failovers=0), id="two jobs"),
        pytest.param(Configuration(faults=1, failovers=0, stops=1), id="one fault and a request to stop"),
        pytest.param(Configuration(workers=1, faults=1, failovers=0, set_backs=1), id="a crash and a clock set back"),
        pytest.param(Configuration(faults=0, failovers=0, set_backs=1), id="a clock set back while all work"),
    ],
)
def test_every_promise_holds_in_every_order_of_steps(configuration: Configuration) -> None:
    found = explore(configuration)
    print(f"\n{configuration}: {len(found.states)} states, {found.transitions} transitions")  # noqa: T201 - figures
    assert found.ends
    assert found.crowd <= 1


Pod = dict[str, Any]


def create_on_adoption(*, adopted: bool) -> Start:
    del adopted
    return Start.CREATE


def send_again(*, may_exist: bool) -> Start:
    del may_exist
    return Start.CREATE


def mint_though_found(*, found: bool) -> Lookup:
    del found
    return Lookup.MINT


def delete_on_refusal(*, recorded: bool) -> End:
    del recorded
    return End.DELETE


def never_an_orphan(attempt: int, record: Record) -> Fate:
    del attempt, record
    return Fate.KEEP


def only_my_own(existing: Pod, wanted: Pod) -> Meeting:
    """The label of the worker decides, as if Redis never forgot a claim."""
    same = existing["metadata"]["labels"] == wanted["metadata"]["labels"]
    return Meeting.FOLLOW if same else Meeting.REFUSE


def endless_leases(text: str) -> str:
    longest = "local LONGEST_LEASE = 600\n"
    assert longest in text
    return text.replace(longest, "local LONGEST_LEASE = 1e18\n")


def without_fence(text: str) -> str:
    fence = "if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then"
    assert fence in text
    return text.replace(fence, "if false then")


FAULT = Configuration(faults=1, failovers=0)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        pytest.param(Rules(first_step=create_on_adoption), "created twice", id="create on adoption"),
        pytest.param(Rules(after_lookup=mint_though_found), "two live pods", id="mint although the pod was found"),
        pytest.param(Rules(deletes_first=True), "runs again", id="delete before commit"),
        pytest.param(Rules(commit=without_fence), "recorded ends|live pods", id="skip the fence"),
        pytest.param(Rules(watches_dead=False), "no way to an end", id="forget the dead worker's label"),
        pytest.param(Rules(after_commit=delete_on_refusal), "runs again", id="delete on a refused commit"),
        pytest.param(Rules(orphan_fate=never_an_orphan), "no way to an end", id="leave orphans"),
    ],
)
def test_a_sabotaged_rule_is_found_out(rules: Rules, found: str) -> None:
    with pytest.raises(Violated, match=found):
        explore(FAULT, rules)


def test_a_creation_that_was_not_confirmed_and_is_sent_again_makes_a_second_pod() -> None:
    """Also one fault is enough: the first request takes effect late, when the second one's pod has come and gone."""
    with pytest.raises(Violated, match="created twice") as found:
        explore(FAULT, Rules(after_silence=send_again))
    assert "connection breaks" in str(found.value)


def test_where_a_lease_in_the_far_future_counts_as_live_jobs_are_stuck() -> None:
    one_crash = Configuration(workers=1, faults=1, failovers=0, set_backs=1)
    with pytest.raises(Violated, match="no way to an end"):
        explore(one_crash, Rules(scripts=endless_leases))


def test_without_taking_over_there_are_two_live_pods_after_a_failover() -> None:
    assert explore(Configuration(faults=0, failovers=1), Rules(meet=only_my_own)).crowd > 1
