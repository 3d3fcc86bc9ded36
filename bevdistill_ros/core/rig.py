"""The camera rig: pinhole cameras in a fixed order and where they are mounted on the vehicle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.core.geometry import invert_rigid

MAX_CAMERAS = 64
MAX_NAME = 100  # characters
MAX_SIDE = 100_000  # [px] of an image


@dataclass(frozen=True, kw_only=True)
class CameraRig:
    """Cameras in a fixed order.

    Raises:
        ValueError: Shapes do not fit the number of names, a value is not finite, or a focal length is not positive.
    """

    names: tuple[str, ...]
    intrinsics: Tensor  # (N, 3, 3) float64 [px], of images of `image_size`
    ego_from_camera: Tensor  # (N, 4, 4) float64 [m], camera frames optical
    image_size: tuple[int, int]  # height, width [px]

    def __post_init__(self) -> None:
        count = len(self.names)
        for field, shape in (("intrinsics", (count, 3, 3)), ("ego_from_camera", (count, 4, 4))):
            value = getattr(self, field)
            if tuple(value.shape) != shape:
                raise ValueError(f"rig.{field} must be of shape {shape} for {self.names}, but is {tuple(value.shape)}")
            if not torch.isfinite(value).all():
                bad = [name for name, entry in zip(self.names, value, strict=True) if not torch.isfinite(entry).all()]
                raise ValueError(f"rig.{field} of {', '.join(bad)} is not finite; check the calibration")
        focal = self.intrinsics[:, [0, 1], [0, 1]]
        if (focal <= 0).any():
            bad = [name for name, entry in zip(self.names, focal, strict=True) if (entry <= 0).any()]
            raise ValueError(f"focal length of {', '.join(bad)} is not positive; the camera is not calibrated")

    def image_from_ego(self) -> Tensor:
        """Projection (N, 4, 4) float64: ego points [m] to (u * depth, v * depth, depth, 1)."""
        image_from_camera = torch.eye(4, dtype=self.intrinsics.dtype).repeat(len(self.names), 1, 1)
        image_from_camera[:, :3, :3] = self.intrinsics
        return image_from_camera @ invert_rigid(self.ego_from_camera)

    def select(self, names: Sequence[str]) -> "CameraRig":
        """The cameras of these names, in this order."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ValueError(f"the rig has no camera {', '.join(missing)}; it has {', '.join(self.names)}")
        index = [self.names.index(name) for name in names]
        return CameraRig(
            names=tuple(names),
            intrinsics=self.intrinsics[index],
            ego_from_camera=self.ego_from_camera[index],
            image_size=self.image_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON and YAML."""
        return {
            "image_size": list(self.image_size),
            "cameras": [
                {"name": name, "intrinsics": k.tolist(), "ego_from_camera": t.tolist()}
                for name, k, t in zip(self.names, self.intrinsics, self.ego_from_camera, strict=True)
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "CameraRig":
        """Inverse of `to_dict`; a missing or misshapen entry is a ValueError that names it.

        Shapes are checked before anything is allocated, since a few lines of YAML can describe millions of numbers.
        """
        try:
            cameras, size = content["cameras"], content["image_size"]
            if not isinstance(cameras, list) or not 1 <= len(cameras) <= MAX_CAMERAS:
                raise ValueError(f"rig description needs a list of 1...{MAX_CAMERAS} cameras")
            names = tuple(_name_of(camera["name"]) for camera in cameras)
            if len(set(names)) != len(names):
                raise ValueError(f"rig description names a camera twice: {', '.join(names)}")
            return cls(
                names=names,
                intrinsics=_stack([_matrix_of(camera, "intrinsics", 3) for camera in cameras]),
                ego_from_camera=_stack([_matrix_of(camera, "ego_from_camera", 4) for camera in cameras]),
                image_size=_size_of(size),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"rig description lacks or misspells {error}; it needs image_size and cameras") from error


def _name_of(value: object) -> str:
    # Containers are never put into a message: out of aliases in YAML they may be endless.
    if not isinstance(value, str):
        raise ValueError(f"rig description: a camera's name must be a string, but is of type {type(value).__name__}")
    if not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"rig description: a camera's name must be short and printable, but is {value[:MAX_NAME]!r}")
    return value


def _matrix_of(camera: Mapping[str, Any], key: str, size: int) -> list[list[float]]:
    rows = camera[key]
    if not isinstance(rows, list) or len(rows) != size or not all(_is_row(row, size) for row in rows):
        raise ValueError(f"rig description: {key} of {camera['name']} must be {size} lists of {size} numbers")
    return rows


def _is_row(row: object, size: int) -> bool:
    return isinstance(row, list) and len(row) == size and all(type(value) in (int, float) for value in row)


def _size_of(value: object) -> tuple[int, int]:
    """Height and width [px]."""
    match value:
        case [int(height), int(width)] if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE:
            return height, width
    raise ValueError(f"rig description: image_size must be [height, width], both in 1...{MAX_SIDE}")


def _stack(matrices: list[list[list[float]]]) -> Tensor:
    try:
        return torch.tensor(matrices, dtype=torch.float64)
    except (OverflowError, RuntimeError) as error:
        raise ValueError(f"rig description holds a number that is too large: {error}") from error
