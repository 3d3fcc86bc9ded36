"""Tables for people."""

from bevdistill_ros.core.text import aligned


def test_columns_are_as_wide_as_needed_and_numbers_stand_to_the_right() -> None:
    rows = [("", "NDS", "note"), ("student", 0.5, "first"), ("teacher", 12.25, "")]
    assert aligned(rows, left=(0, 2)) == "           NDS  note\nstudent    0.5  first\nteacher  12.25"


def test_a_row_may_end_early() -> None:
    assert aligned([("a",), ("long", 1, 22)]) == "a\nlong  1  22"
