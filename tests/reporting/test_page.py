"""What a page consists of, before any browser sees it."""

from geomkit.reporting.page import Cell, Column, Table


def test_columns_are_as_narrow_as_their_words():
    columns = [Column("a", number=False), Column("b", number=False), Column("c")]
    rows = [
        (Cell("C1", "1"), Cell("short", "s"), Cell("1", 1.0)),
        (Cell("C15", "2"), Cell("x" * 15, "x"), Cell("2", 2.0)),
    ]
    assert Table("t", "caption", columns, rows).styles == ["short", "text", "number"]
    assert Table("t", "caption", columns, []).styles == ["short", "short", "number"]
