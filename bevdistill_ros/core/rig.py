"""Camera rigs: pinhole cameras in a fixed order, and where they are mounted on the vehicle."""

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
    """Cameras in a fixed order with images of one size, as the network takes them.

    Raises:
        ValueError: Shapes do not fit the number of names, a value is not finite, or a focal length is not positive.
    """

    names: tuple[str, ...]
    intrinsics: Tensor  # (N, 3, 3) float64 [px], of images of `image_size`
    ego_from_camera: Tensor  # (N, 4, 4) float64 [m], camera frames optical
    image_size: tuple[int, int]  # height, width [px]

    def __post_init__(self) -> None:
        _check_cameras(self.names, self.intrinsics, self.ego_from_camera)

    @property
    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width [px] of the images of each camera."""
        return (self.image_size,) * len(self.names)

    def image_from_ego(self) -> Tensor:
        """Projection (N, 4, 4) float64: ego points [m] to (u * depth, v * depth, depth, 1)."""
        image_from_camera = torch.eye(4, dtype=self.intrinsics.dtype).repeat(len(self.names), 1, 1)
        image_from_camera[:, :3, :3] = self.intrinsics
        return image_from_camera @ invert_rigid(self.ego_from_camera)

    def select(self, names: Sequence[str]) -> "CameraRig":
        """The cameras of these names, in this order."""
        index = _indices(self.names, names)
        return CameraRig(
            names=tuple(names),
            intrinsics=self.intrinsics[index],
            ego_from_camera=self.ego_from_camera[index],
            image_size=self.image_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON and YAML."""
        return {"image_size": list(self.image_size), "cameras": _plain_cameras(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "CameraRig":
        """Inverse of `to_dict`; a missing or misshapen entry is a ValueError that names it."""
        rig = VehicleRig.from_dict(content)
        if len(set(rig.image_sizes)) > 1:
            raise ValueError(f"rig description: the images of all cameras must be of one size, but are {rig.sizes}")
        return cls(
            names=rig.names,
            intrinsics=rig.intrinsics,
            ego_from_camera=rig.ego_from_camera,
            image_size=rig.image_sizes[0],
        )


@dataclass(frozen=True, kw_only=True)
class VehicleRig:
    """The cameras of a vehicle in a fixed order, each with images of its own size: what a rig file describes.

    Raises:
        ValueError: Shapes do not fit the number of names, a value is not finite, or a focal length is not positive.
    """

    names: tuple[str, ...]
    intrinsics: Tensor  # (N, 3, 3) float64 [px], of images of each camera's size
    ego_from_camera: Tensor  # (N, 4, 4) float64 [m], camera frames optical
    image_sizes: tuple[tuple[int, int], ...]  # height, width [px] of each camera

    def __post_init__(self) -> None:
        _check_cameras(self.names, self.intrinsics, self.ego_from_camera)
        if len(self.image_sizes) != len(self.names):
            raise ValueError(f"rig.image_sizes must be {len(self.names)} sizes, but are {len(self.image_sizes)}")

    @property
    def sizes(self) -> str:
        """Each camera's image size, in words."""
        pairs = zip(self.names, self.image_sizes, strict=True)
        return ", ".join(f"{name} {width}x{height}" for name, (height, width) in pairs)

    def select(self, names: Sequence[str]) -> "VehicleRig":
        """The cameras of these names, in this order."""
        index = _indices(self.names, names)
        return VehicleRig(
            names=tuple(names),
            intrinsics=self.intrinsics[index],
            ego_from_camera=self.ego_from_camera[index],
            image_sizes=tuple(self.image_sizes[number] for number in index),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON and YAML; one `image_size` for all cameras where they have the same."""
        if len(set(self.image_sizes)) == 1:
            return {"image_size": list(self.image_sizes[0]), "cameras": _plain_cameras(self)}
        cameras = zip(_plain_cameras(self), self.image_sizes, strict=True)
        return {"cameras": [{**camera, "image_size": list(size)} for camera, size in cameras]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "VehicleRig":
        """Inverse of `to_dict`; a camera without an `image_size` of its own has the common one.

        Shapes are checked before anything is allocated, since a few lines of YAML can describe millions of numbers.

        Raises:
            ValueError: An entry is missing or misshapen; the message names it.
        """
        try:
            cameras = content["cameras"]
            if not isinstance(cameras, list) or not 1 <= len(cameras) <= MAX_CAMERAS:
                raise ValueError(f"rig description needs a list of 1...{MAX_CAMERAS} cameras")
            names = tuple(_name_of(camera["name"]) for camera in cameras)
            if len(set(names)) != len(names):
                raise ValueError(f"rig description names a camera twice: {', '.join(names)}")
            return cls(
                names=names,
                intrinsics=_stack([_matrix_of(camera, "intrinsics", 3) for camera in cameras]),
                ego_from_camera=_stack([_matrix_of(camera, "ego_from_camera", 4) for camera in cameras]),
                image_sizes=tuple(
                    _size_of(camera["image_size"] if "image_size" in camera else content["image_size"])
                    for camera in cameras
                ),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"rig description lacks or misspells {error}; it needs image_size and cameras") from error


Rig = CameraRig | VehicleRig


def _check_cameras(names: Sequence[str], intrinsics: Tensor, ego_from_camera: Tensor) -> None:
    for field, value, side in (("intrinsics", intrinsics, 3), ("ego_from_camera", ego_from_camera, 4)):
        shape = (len(names), side, side)
        if tuple(value.shape) != shape:
            raise ValueError(f"rig.{field} must be of shape {shape} for {names}, but is {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            bad = [name for name, entry in zip(names, value, strict=True) if not torch.isfinite(entry).all()]
            raise ValueError(f"rig.{field} of {', '.join(bad)} is not finite; check the calibration")
    focal = intrinsics[:, [0, 1], [0, 1]]
    if (focal <= 0).any():
        bad = [name for name, entry in zip(names, focal, strict=True) if (entry <= 0).any()]
        raise ValueError(f"focal length of {', '.join(bad)} is not positive; the camera is not calibrated")


def _indices(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"the rig has no camera {', '.join(missing)}; it has {', '.join(names)}")
    return [names.index(name) for name in wanted]


def _plain_cameras(rig: Rig) -> list[dict[str, Any]]:
    return [
        {"name": name, "intrinsics": k.tolist(), "ego_from_camera": t.tolist()}
        for name, k, t in zip(rig.names, rig.intrinsics, rig.ego_from_camera, strict=True)
    ]


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
