import pytest

from worker.cli.table import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("name", "time"), [("a", "1.0 s"), ("longer", "10.0 s")], right=("time",)) == [
        "name      time",
        "a        1.0 s",
        "longer  10.0 s",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert table(("n", "x"), [("日本", "1"), ("é", "2")]) == ["n     x", "日本  1", "é     2"]


def test_no_rows_no_table() -> None:
    assert table(("a",), []) == []


def test_a_row_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("a", "b"), [("only",)])
