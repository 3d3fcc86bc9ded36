"""Text for people: tables, and what others sent, quoted in our own messages."""

from collections.abc import Collection, Sequence
from itertools import zip_longest

MAX_QUOTED = 200  # characters of what others sent that a message quotes


def quote(content: object, limit: int = MAX_QUOTED) -> str:
    """A value as it prints, of at most `limit` characters; text stands in quotation marks.

    Characters that a terminal or a log would act upon are escaped, so that nothing that is sent can forge a line.
    """
    text = _printable(str(content)[: limit + 1], limit)
    return f"'{text}'" if isinstance(content, str) else text


def one_line(content: object, limit: int = MAX_QUOTED) -> str:
    """The message of an error as one line of at most `limit` characters; the name of its type where it is empty."""
    text = " ".join(str(content)[: 10 * limit].split())
    return _printable(text or type(content).__name__, limit)


def aligned(rows: Sequence[Sequence[object]], left: Collection[int] = (0,)) -> str:
    """A table, one line per row, with columns as wide as needed and two blanks between them.

    Args:
        rows: Cells by row; a row may end early.
        left: Columns that are aligned to the left; the others are to the right, for numbers.
    """
    columns = list(zip_longest(*([str(cell) for cell in row] for row in rows), fillvalue=""))
    widths = [max(map(len, column)) for column in columns]
    lines = (
        "  ".join(
            f"{cell:{'<' if place in left else '>'}{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*columns, strict=True)
    )
    return "\n".join(line.rstrip() for line in lines)


def _printable(text: str, limit: int) -> str:
    escaped = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"
