"""One class order: whoever needs the ten classes takes them from core.classes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from nuscenes.eval.detection.constants import DETECTION_NAMES

from bevdistill_ros.core.nuscenes import CLASS_NAMES, CLASS_RANGES

REPOSITORY = Path(__file__).parents[2]
SOURCES = [path for part in ("bevdistill_ros", "training", "launch") for path in (REPOSITORY / part).rglob("*.py")]


def lists_of_classes(source: str) -> Iterator[list[str]]:
    """Lists and tuples in a program that name five classes or more."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            words = [entry.value for entry in node.elts if isinstance(entry, ast.Constant)]
            if len(set(words) & set(CLASS_NAMES)) >= 5:
                yield words


def test_classes_are_those_of_the_benchmark() -> None:
    assert sorted(CLASS_NAMES) == sorted(DETECTION_NAMES)
    assert tuple(CLASS_RANGES) == CLASS_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_there_is_no_second_list_of_classes(path: Path) -> None:
    found = list(lists_of_classes(path.read_text(encoding="utf-8")))
    match str(path.relative_to(REPOSITORY)):
        case "bevdistill_ros/core/nuscenes.py":
            assert found == [list(CLASS_NAMES)]
        case "training/weights/public_kinds.py":  # the order of the logits in BEVDistill's checkpoints
            assert [sorted(classes) for classes in found] == [sorted(CLASS_NAMES)]
        case "training/bag/foreign_types.py":  # labels of Autoware's messages, in the order of their numbers
            assert [set(classes) - set(CLASS_NAMES) for classes in found] == [{"unknown"}]
        case _:
            assert not found
