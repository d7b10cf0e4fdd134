import itertools
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from runner_spec import log_cursor
from runner_spec.log_cursor import LogCursor, LogResumer, time_key

Line = tuple[int, bytes]

contents = st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"."))


@st.composite
def logs(draw: st.DrawFn) -> list[Line]:
    """Lines with rising timestamps in 1/4 seconds, several of them often with the same one."""
    steps = draw(st.lists(st.tuples(st.sampled_from([0, 0, 1, 3]), contents), max_size=12))
    time, lines = 0, []
    for step, content in steps:
        time += step
        lines.append((time, content))
    return lines


def raw(lines: list[Line]) -> bytes:
    return b"".join(b"2026-01-01T00:00:%02d.%03d000000Z %s\n" % (t // 4, t % 4 * 250, c) for t, c in lines)


def since(lines: list[Line], cursor: LogCursor) -> bytes:
    """What Kubernetes sends for `sinceTime`: whole seconds."""
    if not cursor.since_time:
        return raw(lines)
    second = int(cursor.time[17:19])
    return raw([line for line in lines if line[0] // 4 >= second])


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(logs(), st.lists(st.integers(0, 10_000), max_size=5), st.lists(st.integers(0, 10_000), max_size=5))
def test_a_stream_broken_anywhere_and_resumed_gives_every_byte_once(
    lines: list[Line], breaks: list[int], cuts: list[int]
) -> None:
    cursor, got = LogCursor(), b""
    for stop in breaks:
        stream = since(lines, cursor)
        resumer = LogResumer(cursor)
        for chunk in pieces(stream[: stop % (len(stream) + 1)], cuts):
            got += resumer.feed(chunk)
        cursor = resumer.cursor
        assert not resumer.gap
    resumer = LogResumer(cursor)
    for chunk in pieces(since(lines, cursor), cuts):
        got += resumer.feed(chunk)
    got += resumer.finish()
    assert got == raw(lines)
    assert not resumer.gap


@given(logs(), st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_overlong_lines_pass_in_parts_and_resume_in_the_middle(lines: list[Line], breaks: list[int]) -> None:
    original = log_cursor.PART_BYTES
    log_cursor.PART_BYTES = 34  # type: ignore[misc]  # the limit under test, small enough for short examples
    try:
        cursor, got = LogCursor(), b""
        for stop in [*breaks, None]:
            stream = since(lines, cursor)
            resumer = LogResumer(cursor)
            for byte in stream if stop is None else stream[: stop % (len(stream) + 1)]:
                got += resumer.feed(bytes([byte]))
            if stop is None:
                got += resumer.finish()
            cursor = resumer.cursor
        assert got == raw(lines)
    finally:
        log_cursor.PART_BYTES = original  # type: ignore[misc]


def test_a_place_that_was_rotated_away_is_a_gap() -> None:
    resumer = LogResumer(LogCursor("2026-01-01T00:00:01.500000000Z", 2))
    assert resumer.feed(b"2026-01-01T00:00:01.750000000Z later\n") == b"2026-01-01T00:00:01.750000000Z later\n"
    assert resumer.gap


def test_fewer_lines_of_the_last_timestamp_than_seen_is_a_gap() -> None:
    resumer = LogResumer(LogCursor("2026-01-01T00:00:01.5Z", 2))
    resumer.feed(b"2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:02Z two\n")
    assert resumer.gap


def test_a_line_without_newline_at_the_end_is_passed_on_once() -> None:
    text = b"2026-01-01T00:00:01Z a\n2026-01-01T00:00:01Z end"
    first = LogResumer()
    got = first.feed(text) + first.finish()
    again = LogResumer(first.cursor)
    assert got == text
    assert again.feed(text) + again.finish() == b""
    assert not again.gap


def test_fractions_of_any_length_sort_by_time() -> None:
    stamps = ["2026-01-01T00:00:01Z", "2026-01-01T00:00:01.05Z", "2026-01-01T00:00:01.5Z", "2026-01-01T00:00:02Z"]
    assert sorted(stamps, key=time_key) == stamps


def test_a_cursor_survives_json() -> None:
    cursor = LogCursor("2026-01-01T00:00:01Z", 3, 17)
    assert LogCursor.from_list(cursor.as_list()) == cursor


def test_a_remark_of_the_kubelet_is_no_line_of_the_log() -> None:
    resumer = LogResumer()
    assert resumer.feed(b"2026-01-01T00:00:01.5Z one\nunable to retrieve container logs for c") == (
        b"2026-01-01T00:00:01.5Z one\n"
    )
    assert resumer.finish() == b""
    assert resumer.remark == "unable to retrieve container logs for c"
    assert resumer.cursor == LogCursor("2026-01-01T00:00:01.5Z", 1)


def test_a_last_line_without_newline_is_no_remark() -> None:
    resumer = LogResumer()
    assert resumer.feed(b"2026-01-01T00:00:01.5Z one") + resumer.finish() == b"2026-01-01T00:00:01.5Z one"
    assert resumer.remark == ""


def test_what_was_seen_of_an_overlong_line_is_skipped_as_it_comes_not_gathered() -> None:
    stamp, chunk, chunks = b"2026-01-01T00:00:01.000000000Z ", b"x" * 2**16, 1600  # 100 MiB without a newline
    seen = 1000 * len(chunk)
    resumer = LogResumer(LogCursor("2026-01-01T00:00:01.000000000Z", 1, seen))
    complete = stamp + chunk * 8 + b"\n"  # an overlong line that was passed on whole
    assert resumer.feed(complete[: 2**18 + 100]) == b""
    assert resumer.feed(complete[2**18 + 100 :] + stamp) == b""
    tracemalloc.start()
    try:
        fresh = sum(len(resumer.feed(chunk)) for _ in range(chunks))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert fresh + len(resumer.feed(b"\n")) == chunks * len(chunk) - seen + 1
    assert (resumer.gap, resumer.cursor) == (False, LogCursor("2026-01-01T00:00:01.000000000Z", 2))
