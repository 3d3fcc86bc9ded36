"""Reading nuScenes tables record by record into arrays, so that their size on disk does not count in memory."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 2**20  # [characters] read at once; a longer record is taken as damaged
BLOCK = 2**15  # records that become arrays at once
_BETWEEN = " \t\r\n,["

Columns = dict[str, np.ndarray]
Record = Mapping[str, Any]


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a table, one after the other.

    Raises:
        ValueError: The file is no list of records, or is cut off.
        OSError: There is no such file.
    """
    decode = json.JSONDecoder().raw_decode
    with path.open(encoding="utf-8") as file:
        text, place = "", 0
        while True:
            while place < len(text) and text[place] in _BETWEEN:
                place += 1
            if text[place : place + 1] == "]":
                return
            try:
                record, place = decode(text, place)
            except json.JSONDecodeError as error:
                more = file.read(CHUNK)
                if not more or len(text) - place > CHUNK:
                    raise ValueError(f"{path.name} is cut off or damaged: {error.msg}") from error
                text, place = text[place:] + more, 0
                continue
            if not isinstance(record, dict):
                raise ValueError(f"{path.name} holds {record!r} in the place of a record")
            yield record


def columns_of(records: Iterable[Record], columns: Mapping[str, tuple[Any, Callable[[Record], Any]]]) -> Columns:
    """Arrays of some values of records.

    Args:
        records: Taken one after the other.
        columns: By name, dtype and how the value follows from a record.
    """
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    iterator = iter(records)
    while True:
        block = list(islice(iterator, BLOCK))
        for name, (dtype, value) in columns.items():
            blocks[name].append(np.array([value(record) for record in block], dtype=dtype))
        if len(block) < BLOCK:
            # An empty block has lost the shape of its entries.
            return {
                name: np.concatenate([part for part in parts if len(part)] or parts) for name, parts in blocks.items()
            }


def text_of(name: str) -> tuple[Any, Callable[[Record], Any]]:
    """A column of text, as bytes."""
    return np.bytes_, lambda record: record[name].encode()


def number_of(name: str, dtype: Any) -> tuple[Any, Callable[[Record], Any]]:
    """A column of numbers, or of lists of numbers of one length."""
    return dtype, lambda record: record[name]


class Tokens:
    """Finds rows by their token.

    Args:
        tokens: (R,) bytes, one per row.
        table: Name of the table, for messages.
    """

    def __init__(self, tokens: np.ndarray, table: str) -> None:
        self._order = np.argsort(tokens, kind="stable")
        self._sorted = tokens[self._order]
        self._table = table

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Rows (K,) int64 of tokens (K,) bytes; -1 for the empty token.

        Raises:
            ValueError: A token is not in the table.
        """
        empty = wanted == b""
        if not len(self._sorted):
            found, known = np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
        else:
            place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
            found, known = self._order[place], self._sorted[place] == wanted
        lost = np.flatnonzero(~known & ~empty)
        if len(lost):
            raise ValueError(f"{self._table} has no record '{wanted[lost[0]].decode()}' that another table names")
        return np.where(empty, -1, found)
