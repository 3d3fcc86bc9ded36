"""Message types: those of ROS 2, those of others that hold boxes, and ours."""

from functools import cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from training.bag.foreign_types import foreign_definitions

_PACKAGE = "bevdistill_ros"


@cache
def standard_types() -> Typestore:
    """The types of a ROS 2 distribution, the same from Humble on, and those of other packages that hold boxes."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, definition in foreign_definitions().items():
        types.update(get_types_from_msg(definition, name))
    store.register(types)
    return store


@cache
def detector_types() -> Typestore:
    """The standard types and ours.

    Raises:
        ValueError: The definitions of our messages are not found.
    """
    folder = _definitions_folder()
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(folder.glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{_PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def _definitions_folder() -> Path:
    candidates = [Path(__file__).parents[2] / "msg", *_installed()]
    for folder in candidates:
        if (folder / "Detection3DArray.msg").is_file():
            return folder
    raise ValueError(
        f"message definitions of {_PACKAGE} not found in {', '.join(map(str, candidates))}; source the workspace"
    )


def _installed() -> list[Path]:
    """Where a sourced workspace keeps the definitions; nowhere without ROS."""
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        return []
    try:
        return [Path(get_package_share_directory(_PACKAGE)) / "msg"]
    except PackageNotFoundError:
        return []
