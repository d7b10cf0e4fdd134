import io

import pytest

from worker.cli.terminal import Terminal, wants_colours


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_lines_are_printed_above_the_progress_line() -> None:
    stream = Tty()
    terminal = Terminal(stream)
    terminal.progress("... waiting")
    terminal.print(["one", "two"])
    terminal.progress("")
    terminal.print(["three"])
    erase = "\r\x1b[2K"
    assert stream.getvalue() == f"{erase}... waiting{erase}one\ntwo\n... waiting{erase}three\n"


def test_a_progress_line_never_wraps() -> None:
    stream = Tty()
    Terminal(stream).progress("\x1b[2m" + "x" * 500 + "\x1b[0m")
    shown = stream.getvalue()
    assert shown.count("x") < 500
    assert shown.endswith("x\x1b[0m")


def test_without_a_terminal_there_is_neither_progress_nor_colour() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.progress("... waiting")
    terminal.print([terminal.paint("good", "one")])
    assert stream.getvalue() == "one\n"


def test_no_color_is_respected() -> None:
    assert wants_colours(Tty(), {})
    assert wants_colours(Tty(), {"NO_COLOR": ""})
    assert not wants_colours(Tty(), {"NO_COLOR": "1"})
    assert not wants_colours(Tty(), {"TERM": "dumb"})
    assert not wants_colours(io.StringIO(), {})


def test_what_the_terminal_cannot_show_becomes_a_question_mark() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Terminal(stream).print(["grün"])
    assert raw.getvalue() == b"gr?n\n"
