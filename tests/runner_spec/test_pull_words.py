import copy

from hypothesis import given
from hypothesis import strategies as st

from runner_spec.pull_words import keep_words, told_by_registry
from tests.runner_spec import pods

CAUSE = 'Head "https://r.example/v2/nope/manifests/1": dial tcp: lookup r.example: no such host'
FAILED = f'failed to pull and unpack image "r.example/nope:1": failed to resolve image: failed to do request: {CAUSE}'
MUTE = 'Back-off pulling image "r.example/nope:1"'


def test_trying_again_and_backing_off_are_told_in_the_same_words() -> None:
    assert told_by_registry("ErrImagePull", FAILED) == CAUSE
    assert told_by_registry("ImagePullBackOff", f"{MUTE}: ErrImagePull: {FAILED}") == CAUSE
    assert told_by_registry("ErrImagePull", f"rpc error: code = NotFound desc = {FAILED}") == CAUSE


def test_a_back_off_without_a_cause_is_told_as_it_is() -> None:
    assert told_by_registry("ImagePullBackOff", MUTE) == MUTE
    assert told_by_registry("ErrImageNeverPull", "") == "ErrImageNeverPull"


def test_a_mute_back_off_keeps_the_words_of_the_failure_before_it() -> None:
    failing = pods.waits(pods.checked_out(), "run", "ErrImagePull", FAILED)
    mute = pods.waits(pods.checked_out(), "run", "ImagePullBackOff", MUTE)
    kept = keep_words(mute, failing)
    waiting = pods.status_of(dict(kept), "run")["state"]["waiting"]
    assert told_by_registry(waiting["reason"], waiting["message"]) == CAUSE
    assert keep_words(mute, kept) == kept  # however long it backs off
    assert mute == pods.waits(pods.checked_out(), "run", "ImagePullBackOff", MUTE)  # the given pod is left alone


def test_nothing_is_kept_that_is_over_or_anothers() -> None:
    failing = pods.waits(pods.checked_out(), "run", "ErrImagePull", FAILED)
    for later in (pods.running(), pods.waits(pods.checked_out(), "upload", "ImagePullBackOff", MUTE)):
        assert keep_words(later, failing) == later
    told = pods.waits(pods.checked_out(), "run", "ImagePullBackOff", f"{MUTE}: ErrImagePull: other words")
    assert keep_words(told, failing) == told
    assert keep_words(told, None) == told


@given(status=st.dictionaries(st.sampled_from(["phase", "containerStatuses", "conditions"]), st.none()))
def test_a_status_with_holes_is_no_obstacle(status: dict[str, None]) -> None:
    pod = {"status": status}
    assert keep_words(copy.deepcopy(pod), pod) == pod
