import itertools

from hypothesis import given
from hypothesis import strategies as st

from runner_spec.masking import MASK, Masker, maskable

STAMP = b"2026-01-01T00:00:01.000000000Z "


def masked(values: list[bytes], *chunks: bytes) -> bytes:
    masker = Masker(values)
    return b"".join(map(masker.feed, chunks)) + masker.finish()


def test_a_value_is_hidden_whole_and_when_split_over_two_chunks() -> None:
    assert masked([b"s3cret"], b"x s3cret y\n", b"z s3c", b"ret\n") == b"x %b y\nz %b\n" % (MASK, MASK)


def test_each_line_of_a_value_of_several_lines_is_hidden() -> None:
    assert masked([b"first\nsecond\n"], b"a first\nb second\n") == b"a %b\nb %b\n" % (MASK, MASK)


def test_the_longer_of_two_values_wins() -> None:
    assert masked([b"abcd", b"abcdefgh"], b"abcdefgh abcd\n") == b"%b %b\n" % (MASK, MASK)


def test_a_value_that_looks_like_a_timestamp_leaves_the_timestamps_alone() -> None:
    assert masked([b"2026"], STAMP + b"year 2026\n" + STAMP + b"20", b"26\n") == (
        STAMP + b"year " + MASK + b"\n" + STAMP + MASK + b"\n"
    )


def test_a_value_too_short_to_hide_is_not_looked_for() -> None:
    assert maskable([b"abc", b"  \n"]) == []
    assert masked([b"abc"], b"abc\n") == b"abc\n"


def test_what_may_be_the_beginning_of_a_value_is_held_back_not_lost() -> None:
    masker = Masker([b"s3cret"])
    assert masker.feed(b"the s3c") == b"the "
    assert masker.held == 3
    assert masker.finish() == b"s3c"


@given(
    st.lists(st.text("ab", min_size=4, max_size=7), min_size=1, max_size=3),
    st.text("ab\n", max_size=60),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_no_value_survives_however_the_text_is_cut(values: list[str], text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    secrets = [v.encode() for v in values]
    out = masked(secrets, *chunks)
    for piece in out.split(MASK):
        assert not any(secret in piece for secret in secrets)
    assert out.count(b"\n") == data.count(b"\n")
