"""The rig file: intrinsics and mountings of all cameras in YAML."""

import yaml

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.node.rig.calibration import Calibration

MAX_RIG_BYTES = 1_000_000


def load_rig(path: str) -> CameraRig:
    """Read a rig file: YAML with the content of `CameraRig.to_dict`.

    Raises:
        ValueError: The file cannot be read or describes no rig.
    """
    text = read_text(path, what="rig_file", max_bytes=MAX_RIG_BYTES)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"rig_file {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"rig_file {path} holds no rig; it needs the keys image_size and cameras")
    try:
        return CameraRig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"rig_file {path}: {error}") from error


def calibrations_of(rig: CameraRig) -> dict[str, Calibration]:
    """Intrinsics of a rig, camera by camera."""
    return {
        name: Calibration(matrix=matrix.double().numpy(), size=rig.image_size)
        for name, matrix in zip(rig.names, rig.intrinsics, strict=True)
    }
