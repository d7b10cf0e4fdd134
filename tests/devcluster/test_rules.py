"""The pure parts: quantities, paths, expansion, patches, status, names."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.container_init import LogWriter
from devcluster.container_log import ContainerLog, LogOptions, read_log
from devcluster.environment import expand
from devcluster.mounts import PathMap
from devcluster.names import generated_name, label_key_problem, label_value_problem, subdomain_problem
from devcluster.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, apply_patch
from devcluster.pod_fields import Role, go_quoted
from devcluster.pod_status import ContainerView, PodFacts, Running, Terminated, Waiting, located, phase, pod_status
from devcluster.quantity import parse_quantity, whole
from devcluster.runtime import Mount
from devcluster.status_error import StatusError
from tests.devcluster.conformance.api_client import asynchronous

OK = Terminated(0, "Completed", 1.0, 2.0)
BAD = Terminated(1, "Error", 1.0, 2.0)
UP = Running(1.0)
NOT_YET = Waiting("PodInitializing")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("500m", 1), ("1500m", 2), ("1Ki", 1024), ("64Mi", 64 << 20), ("1.5Gi", 3 << 29), ("1e3", 1000),
     ("2k", 2000), ("1E", 10**18), ("100n", 1), ("0", 0), (".5", 1)],
)  # fmt: skip
def test_quantities_are_exact_and_rounded_up(text: str, value: int) -> None:
    assert whole(parse_quantity(text)) == value


@pytest.mark.parametrize("text", ["", "x", "1Gb", "1 Gi", "Gi", "1.2.3", "--1"])
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/w", "/h/w"),
        ("/w/", "/h/w/"),
        ("/w/a/b", "/h/w/a/b"),
        ("/w2", "/w2"),
        ("/w/deep/x", "/h/deep/x"),
        ("a:/w:/w/b:", "a:/h/w:/h/w/b:"),
        ("x=/w", "x=/w"),
        ("http://w/w", "http://w/w"),
        ("", ""),
        ("w", "w"),
    ],
)
def test_paths_are_mapped_component_by_component(text: str, expected: str) -> None:
    paths = PathMap([Mount("/w", Path("/h/w")), Mount("/w/deep", Path("/h/deep"))])
    assert paths.text(text) == expected


@given(st.text())
def test_text_without_mount_paths_is_untouched(text: str) -> None:
    assert PathMap([Mount("/no/such/mount", Path("/h"))]).text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A", "$A"),
        ("$$", "$"),
        ("$(A", "$(A"),
        ("a$(A)b$(A)", "a1b1"),
    ],
)
def test_variables_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_merge_patches_remove_and_nest() -> None:
    old = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert apply_patch(MERGE_PATCH, old, {"a": {"b": None, "d": 3}, "l": [3]}) == {"a": {"c": 2, "d": 3}, "l": [3]}
    assert old == {"a": {"b": 1, "c": 2}, "l": [1, 2]}


def test_strategic_patches_merge_lists_by_their_key() -> None:
    old = {"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "finalizers": ["x"], "args": ["1"]}
    patch = {
        "containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}],
        "finalizers": ["y"],
        "args": ["2"],
    }
    assert apply_patch(STRATEGIC_PATCH, old, patch) == {
        "containers": [{"name": "a", "image": "2"}, {"name": "c"}],
        "finalizers": ["x", "y"],
        "args": ["2"],
    }
    gone = apply_patch(STRATEGIC_PATCH, old, {"$deleteFromPrimitiveList/finalizers": ["x"]})
    assert gone["finalizers"] == []


def test_json_patches_follow_rfc_6902() -> None:
    old = {"a": [1, 2], "m": {"x/y": 1}}
    operations = [
        {"op": "test", "path": "/a/0", "value": 1},
        {"op": "add", "path": "/a/-", "value": 3},
        {"op": "add", "path": "/a/0", "value": 0},
        {"op": "replace", "path": "/m/x~1y", "value": 2},
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "move", "from": "/m", "path": "/n"},
        {"op": "remove", "path": "/b/0"},
    ]
    assert apply_patch(JSON_PATCH, old, operations) == {"a": [0, 1, 2, 3], "b": [1, 2, 3], "n": {"x/y": 2}}
    assert old == {"a": [1, 2], "m": {"x/y": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/b", "value": 1},
        {"op": "jump", "path": "/a"},
        {"path": "/a"},
    ],
)
def test_a_json_patch_that_fails_is_unprocessable(operation: dict[str, object]) -> None:
    with pytest.raises(StatusError) as caught:
        apply_patch(JSON_PATCH, {"a": 1}, [operation])
    assert caught.value.code == 422


def view(role: Role, state: object, **fields: object) -> ContainerView:
    started = isinstance(state, Running)
    return ContainerView(role.value, role, "i", state, **{"started": started, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("init", "sidecar", "main", "ended", "expected"),
    [
        (NOT_YET, NOT_YET, NOT_YET, False, "Pending"),
        (UP, NOT_YET, NOT_YET, False, "Pending"),
        (OK, UP, NOT_YET, False, "Pending"),
        (OK, UP, UP, False, "Running"),
        (OK, UP, OK, False, "Running"),
        (OK, UP, BAD, False, "Running"),
        (OK, BAD, OK, False, "Running"),  # nothing runs, but it is not over before the worker says so
        (OK, BAD, OK, True, "Succeeded"),
        (OK, OK, BAD, True, "Failed"),
        (BAD, UP, NOT_YET, False, "Pending"),
        (BAD, OK, NOT_YET, True, "Failed"),
        (OK, UP, NOT_YET, True, "Failed"),
        (NOT_YET, NOT_YET, NOT_YET, True, "Failed"),
    ],
)
def test_the_phase_follows_from_the_containers(
    init: object, sidecar: object, main: object, *, ended: bool, expected: str
) -> None:
    containers = (view(Role.INIT, init), view(Role.SIDECAR, sidecar), view(Role.MAIN, main))
    assert phase(PodFacts(containers, "BestEffort", 1.0, 1, ended=ended)) == expected


def test_success_needs_a_seen_success() -> None:
    """Whatever is known: a main container without an end of its own is never counted as a success."""
    for state in (UP, NOT_YET, BAD):
        containers = located((view(Role.MAIN, state), view(Role.MAIN, OK)))
        assert phase(PodFacts(containers, "BestEffort", 1.0, 1, ended=True)) == "Failed"


def test_messages_of_a_pod_share_12_kib() -> None:
    long = Terminated(0, "Completed", 1.0, 2.0, "é" * 2048)
    containers = tuple(view(Role.MAIN, long) for _ in range(6))
    status = pod_status(PodFacts(containers, "BestEffort", 1.0, 1, ended=True), {}, 3.0)
    message = status["containerStatuses"][0]["state"]["terminated"]["message"]
    assert len(message.encode()) == 2048


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_quoted_text_is_one_printable_line(text: str) -> None:
    quoted = go_quoted(text)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted.isprintable()


@pytest.mark.parametrize("name", ["a", "a.b", "a-b", "0", "a" * 253])
def test_good_names_pass(name: str) -> None:
    assert subdomain_problem(name) is None


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a..b", "a_b", "a\n", "a" * 254, "é"])
def test_bad_names_are_told(name: str) -> None:
    assert subdomain_problem(name)


def test_labels_have_keys_and_values() -> None:
    assert label_key_problem("a.b/c_D.e") is None
    assert label_value_problem("") is None
    for key in ("", "/a", "a/", "a/b/c", "A_b/c", "a b", "x" * 64):
        assert label_key_problem(key), key
    for value in ("-a", "a ", "x" * 64, "a/b"):
        assert label_value_problem(value), value


@given(st.from_regex(r"\A[a-z]([-a-z0-9]{0,80}[a-z])?-\Z"))
def test_generated_names_are_valid(base: str) -> None:
    assert subdomain_problem(generated_name(base)) is None
    assert len(generated_name(base)) <= 63


@given(
    st.lists(
        st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.binary(max_size=40_000) | st.just(b"x" * 40_000)),
        max_size=6,
    )
)
def test_a_log_keeps_every_byte_of_a_stream(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[bytes, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    with path.open("wb", buffering=0) as file:
        writer = LogWriter(file.fileno())
        for stream, data in writes:
            writer.feed(stream, data)
        for stream in (b"stdout", b"stderr"):
            writer.finish(stream)
    kept = {b"stdout": b"", b"stderr": b""}
    stamps = []
    for record in path.read_bytes().split(b"\n")[:-1]:
        stamp, stream, flag, content = record.split(b" ", 3)
        stamps.append(stamp)
        kept[stream] += content + (b"\n" if flag == b"F" else b"")
        assert len(content) <= 16384
    for stream, found in kept.items():
        written = b"".join(data for name, data in writes if name == stream)
        assert found == re.sub(rb"\r\n", b"\n", written)
    assert stamps == sorted(set(stamps))
    assert all(len(stamp) == 30 for stamp in stamps)


@asynchronous
async def test_the_tail_is_found_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    with path.open("wb", buffering=0) as file:
        LogWriter(file.fileno()).feed(b"stdout", b"".join(b"%d\n" % n for n in range(5000)))
    log = ContainerLog(path)
    log.finish()
    for count in (0, 1, 1600, 4999, 5000, 6000):
        found = b"".join([chunk async for chunk in read_log(log, LogOptions(tail=count))])
        assert found == b"".join(b"%d\n" % n for n in range(max(0, 5000 - count), 5000))
