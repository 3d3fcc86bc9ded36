"""The rig file: intrinsics and mountings of all cameras in YAML."""

from pathlib import Path

import yaml

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.rig import VehicleRig

MAX_RIG_BYTES = 1_000_000


def load_rig(path: Path | str, *, what: str = "rig_file") -> VehicleRig:
    """Read a rig file: YAML with the content of `VehicleRig.to_dict`.

    Args:
        path: The file.
        what: Its name in messages, as that of the setting which gave it.

    Raises:
        ValueError: The file cannot be read or describes no rig.
    """
    text = read_text(path, what=what, max_bytes=MAX_RIG_BYTES)
    try:
        content = yaml.safe_load(text)
    except (AttributeError, TypeError) as error:  # of PyYAML itself
        raise ValueError(f"{what} {path} has a value that does not fit its tag, such as !!timestamp 99") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{what} {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{what} {path} holds no rig; it needs the keys image_size and cameras")
    try:
        return VehicleRig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{what} {path}: {error}") from error
