from hypothesis import given
from hypothesis import strategies as st

from worker.cli.log_text import RESET, display_lines, display_text


def test_plain_text_is_shown_as_it_is() -> None:
    assert display_lines("grün ✓ 日本\ttab".encode(), colours=False) == ["grün ✓ 日本\ttab"]


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert display_lines(b"a\xff\xfeb", colours=False) == ["a\ufffd\ufffdb"]


def test_colours_stay_on_a_terminal_and_end_with_the_line() -> None:
    assert display_lines(b"\x1b[31mred", colours=True) == ["\x1b[31mred" + RESET]


def test_colours_are_dropped_elsewhere() -> None:
    assert display_lines(b"\x1b[1;31mred\x1b[0m", colours=False) == ["red"]


def test_sequences_that_move_the_cursor_or_retitle_the_window_are_dropped() -> None:
    assert display_lines(b"a\x1b[2J\x1b[1;1Hb\x1b]0;title\x07c\x1b]8;;http://x\x1b\\d\x1b[?25l", colours=True) == [
        "abcd"
    ]


def test_other_control_characters_are_shown_by_their_codes() -> None:
    assert display_lines(b"a\x07b\x00c\x1b", colours=True) == ["a^Gb^@c^["]
    assert display_lines("x\x7fy\x9bz".encode(), colours=True) == ["x<7F>y<9B>z"]


def test_marks_that_reorder_text_are_shown_by_their_codes() -> None:
    assert display_lines("if \u202ebad\u2069".encode(), colours=True) == ["if <U+202E>bad<U+2069>"]


def test_a_progress_bar_hides_nothing() -> None:
    assert display_lines(b" 10%\r 90%\rdone\r", colours=False) == [" 10%", " 90%", "done"]


def test_an_empty_line_stays_a_line() -> None:
    assert display_lines(b"", colours=True) == [""]


def test_text_of_several_lines_becomes_one() -> None:
    assert display_text("one\ntwo\r\n\x1b[31mthree\n") == "one two three"


@given(st.binary(max_size=200), st.booleans())
def test_nothing_but_colours_reaches_the_terminal(data: bytes, colours: bool) -> None:  # noqa: FBT001 - hypothesis
    for line in display_lines(data, colours=colours):
        rest = "".join(part.partition("m")[2] if index else part for index, part in enumerate(line.split("\x1b[")))
        if not colours:
            assert "\x1b" not in line
        assert all(character >= " " or character == "\t" for character in rest)
