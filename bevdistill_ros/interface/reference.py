"""The parameters as a Markdown table, from their declarations: `python -m bevdistill_ros.interface.reference`."""

import re
import sys
from pathlib import Path
from typing import Any

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.interface.parameters import settings

_TABLE = re.compile(r"(?<=-->\n)\|.*?(?=<!-- parameters: end -->)", re.DOTALL)
_TYPES = {bool: "bool", int: "int", float: "double", str: "string", tuple: "string[]"}


def parameter_table() -> str:
    """All parameters, one per line: name, type, default, allowed values, whether it may change live, its meaning."""
    head = ["| parameter | type | default | allowed | live | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(_row(name, entry) for name, entry in settings().items())])


def write_into(page: Path) -> None:
    """Put the table between the marks `<!-- parameters: ... -->` and `<!-- parameters: end -->` of a page.

    Raises:
        ValueError: The page has no such marks.
    """
    text, found = _TABLE.subn(lambda old: parameter_table() + "\n", page.read_text())
    if not found:
        raise ValueError(f"{page} has no lines '<!-- parameters: ... -->' and '<!-- parameters: end -->' with a table")
    write_whole(page, text)


def _row(name: str, entry: Any) -> str:
    limits = entry.metadata
    live = "yes" if limits["live"] else ""
    cells = [f"`{name}`", _TYPES[type(entry.default)], _default(entry.default), _allowed(limits), live]
    return f"| {' | '.join([*cells, limits['description']])} |"


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{str(value).lower()}`"


def _allowed(limits: Any) -> str:
    if limits["choices"]:
        return ", ".join(f"`{choice}`" for choice in limits["choices"])
    return "" if limits["low"] is None else f"{limits['low']:g}...{limits['high']:g}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_into(Path(name))
    if not sys.argv[1:]:
        sys.stdout.write(parameter_table() + "\n")
