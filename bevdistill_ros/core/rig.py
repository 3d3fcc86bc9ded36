"""The camera rig: an ordered ring of pinhole cameras and where they sit on the vehicle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.core.geometry import invert_rigid

NUSCENES_CAMERAS: tuple[str, ...] = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)


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
        """Inverse of `to_dict`; a missing or misshapen entry is a ValueError that names it."""
        try:
            cameras = content["cameras"]
            height, width = content["image_size"]
            return cls(
                names=tuple(str(camera["name"]) for camera in cameras),
                intrinsics=torch.tensor([camera["intrinsics"] for camera in cameras], dtype=torch.float64),
                ego_from_camera=torch.tensor([camera["ego_from_camera"] for camera in cameras], dtype=torch.float64),
                image_size=(int(height), int(width)),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"rig description lacks or misspells {error}; it needs image_size and cameras") from error
