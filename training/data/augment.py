"""Augmentation of samples.

BEV augmentation turns, scales and mirrors the world around the ego. Everything follows: points, boxes, and the cameras,
whose `image_from_ego` takes augmented points to the pixels where the originals were. So a camera student and a LiDAR
teacher see the same augmented world. The global frame is augmented along with the ego frame, which keeps
`global_from_ego` a rigid transform and the motion between the frames of a clip right.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import CameraInput
from training.data.points import points_on_grid
from training.data.sample import Sample

_YIQ_FROM_RGB = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_LUMA = _YIQ_FROM_RGB[0]
BLACK = (0, 0, 0)  # RGB


@dataclass(frozen=True, kw_only=True)
class BevAugmentConfig:
    """How far the world may be turned, scaled and mirrored; defaults as LiDAR detectors are trained."""

    rotation: float = math.radians(22.5)  # [rad] at most, either way, about z
    scale_min: float = 0.95
    scale_max: float = 1.05
    flip_x: float = 0.5  # probability of x -> -x, ahead becomes behind
    flip_y: float = 0.5  # probability of y -> -y, left becomes right

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max:
            raise ValueError(
                f"scale_min must be above 0 and at most scale_max, but they are {self.scale_min}, {self.scale_max}"
            )
        if self.rotation < 0:
            raise ValueError(f"rotation must be at least 0, but is {self.rotation}")
        for name in ("flip_x", "flip_y"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability in 0...1, but is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PhotometricConfig:
    """How far the colours of an image may change; each change happens with the same probability, image by image."""

    probability: float = 0.5
    brightness: float = 0.125  # at most, as a part of full scale, either way
    contrast: float = 0.5  # factor 1 - contrast ... 1 + contrast
    saturation: float = 0.5  # factor 1 - saturation ... 1 + saturation
    hue: float = math.radians(18.0)  # [rad] at most, either way

    def __post_init__(self) -> None:
        for name in ("probability", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0...1, but is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GridMaskConfig:
    """How much of an image a grid of squares may hide; the defaults are BEVFormer's."""

    probability: float = 0.7  # of an image to be masked
    ratio: float = 0.5  # side of a square as a part of the grid's period; a quarter of the image is hidden

    def __post_init__(self) -> None:
        for name in ("probability", "ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0...1, but is {getattr(self, name)}")


class Compose:
    """Augmentations one after the other."""

    def __init__(self, *steps: Callable[[Sample], Sample]) -> None:
        self.steps = steps

    def __call__(self, sample: Sample) -> Sample:
        for step in self.steps:
            sample = step(sample)
        return sample


class BevAugment:
    """Turn, scale and mirror the world of a sample at random, its whole clip alike."""

    def __init__(self, config: BevAugmentConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample) -> Sample:
        config = self.config
        transform = augmented_from_ego(
            rotation=_uniform(-config.rotation, config.rotation),
            scale=_uniform(config.scale_min, config.scale_max),
            flip_x=_happens(config.flip_x),
            flip_y=_happens(config.flip_y),
        )
        return augment_sample(sample, transform)


class ImageAugment:
    """Change each image of a sample, those of its history too; missing cameras stay as they are."""

    def __call__(self, sample: Sample) -> Sample:
        return replace(
            sample,
            cameras=self._changed(sample.cameras),
            history=tuple(self._changed(frame) for frame in sample.history),
        )

    def change(self, image: Tensor) -> Tensor:
        """The changed image (3, height, width) uint8; the given one is left as it is."""
        raise NotImplementedError

    def _changed(self, frame: CameraInput) -> CameraInput:
        images = frame.images.clone()
        for item, camera in torch.nonzero(frame.valid).tolist():
            image = images[item, camera]
            changed = self.change(image)
            if changed is not image:
                images[item, camera] = changed
        return replace(frame, images=images)


class PhotometricAugment(ImageAugment):
    """Change the colours of a sample's images at random; padding and black pixels stay as they are.

    Args:
        config: How far.
        padding: RGB of what no image covers.
    """

    def __init__(self, config: PhotometricConfig, padding: Sequence[int] = BLACK) -> None:
        self.config, self.padding = config, padding

    def change(self, image: Tensor) -> Tensor:
        config = self.config
        return adjust_colours(
            image,
            brightness=self._drawn(config.brightness),
            contrast=1 + self._drawn(config.contrast),
            saturation=1 + self._drawn(config.saturation),
            hue=self._drawn(config.hue),
            padding=self.padding,
        )

    def _drawn(self, limit: float) -> float:
        return _uniform(-limit, limit) if _happens(self.config.probability) else 0.0


class GridMask(ImageAugment):
    """Hide a grid of squares in a sample's images at random, GridMask (arXiv 2001.04086).

    The period is drawn from 2 px to the image's height, and so is where the grid begins. Deviation: the grid is not
    turned.

    Args:
        config: How much.
        colour: RGB of the squares; the network's mean colour is about zero to it, as BEVFormer has it.
    """

    def __init__(self, config: GridMaskConfig, colour: Sequence[int] = BLACK) -> None:
        self.config, self.colour = config, torch.tensor(colour, dtype=torch.uint8)

    def change(self, image: Tensor) -> Tensor:
        if not _happens(self.config.probability):
            return image
        height, width = image.shape[-2:]
        period = round(_uniform(2, max(height, 2)))
        start = round(_uniform(0, period)), round(_uniform(0, period))
        side = round(self.config.ratio * period)
        kept = grid_of_squares(height, width, period=period, side=side, start=start).bool()
        return torch.where(kept, image, self.colour[:, None, None])


def grid_of_squares(height: int, width: int, *, period: int, side: int, start: tuple[int, int]) -> Tensor:
    """0 in squares and 1 between them: (height, width) uint8.

    Args:
        height: Rows [px].
        width: Columns [px].
        period: From square to square, both ways [px].
        side: Of a square [px].
        start: Row and column of the first square, over the period.
    """
    row, col = (
        (torch.arange(count) - first) % period < side for count, first in zip((height, width), start, strict=True)
    )
    return (~(row[:, None] & col[None, :])).to(torch.uint8)


class RangeFilter:
    """Leave out points off the grid, and boxes that no model can or should learn.

    Args:
        grid: Boxes whose centres lie off it in x or y are left out.
        min_lidar_points: Boxes that hold fewer LiDAR points are left out.
        all_points: Whether points off the grid stay, for a LiDAR detector with a range of its own.
    """

    def __init__(self, grid: BevGrid, *, min_lidar_points: int = 1, all_points: bool = False) -> None:
        self.grid, self.min_lidar_points, self.all_points = grid, min_lidar_points, all_points

    def __call__(self, sample: Sample) -> Sample:
        normalised = self.grid.normalize(sample.boxes[:, :2])
        kept = ((normalised >= 0) & (normalised < 1)).all(dim=1) & (sample.num_lidar_points >= self.min_lidar_points)
        return replace(
            sample,
            points=sample.points if self.all_points else points_on_grid(sample.points, self.grid),
            boxes=sample.boxes[kept],
            labels=sample.labels[kept],
            num_lidar_points=sample.num_lidar_points[kept],
            box_weights=sample.box_weights[kept],
        )


def augmented_from_ego(*, rotation: float, scale: float, flip_x: bool, flip_y: bool) -> Tensor:
    """Transform (4, 4) float64 that mirrors, then turns by `rotation` [rad] counter-clockwise about z, then scales."""
    cosine, sine = math.cos(rotation), math.sin(rotation)
    turn = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    mirror = torch.tensor([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1.0], dtype=torch.float64)
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = scale * turn * mirror
    return transform


def augment_sample(sample: Sample, transform: Tensor) -> Sample:
    """Carry a sample into the augmented world of a transform (4, 4) of `augmented_from_ego`."""
    points = sample.points.clone()
    points[:, :3] = (points[:, :3].double() @ transform[:3, :3].T).to(points.dtype)
    return replace(
        sample,
        points=points,
        boxes=_augment_boxes(sample.boxes, transform),
        cameras=_augment_cameras(sample.cameras, transform),
        history=tuple(_augment_cameras(frame, transform) for frame in sample.history),
    )


def adjust_colours(
    image: Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    padding: Sequence[int] = BLACK,
) -> Tensor:
    """Change the colours of an image.

    Args:
        image: (3, H, W) uint8 RGB.
        brightness: Added to every pixel, as a part of full scale.
        contrast: Factor about the image's mean grey.
        saturation: Factor of what differs from grey.
        hue: Turn of the colour circle [rad].
        padding: RGB of what no image covers.

    Returns:
        (3, H, W) uint8 RGB; pixels that were black or of the padding stay so.
    """
    if (brightness, contrast, saturation, hue) == (0.0, 1.0, 1.0, 0.0):
        return image
    lit = image.amax(dim=0) > 0
    if any(padding):
        lit &= (image != torch.tensor(padding, dtype=image.dtype)[:, None, None]).any(dim=0)
    pixels = image.float().flatten(1)
    # All changes together are one matrix and one offset, so that the pixels are gone through once.
    mean = torch.tensor(_LUMA) @ (pixels @ lit.flatten().float()) / lit.sum().clamp(min=1)
    offset = (mean * (1 - contrast) + 255.0 * brightness).expand(3, 1)
    changed = torch.addmm(offset, contrast * _colour_matrix(saturation, hue), pixels).round_().clamp_(0, 255)
    return torch.where(lit, changed.to(torch.uint8).view_as(image), image)


def _colour_matrix(saturation: float, hue: float) -> Tensor:
    """What scales and turns the colours of RGB pixels: (3, 3) float32."""
    to_yiq = torch.tensor(_YIQ_FROM_RGB, dtype=torch.float64)
    cosine, sine = saturation * math.cos(hue), saturation * math.sin(hue)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]], dtype=torch.float64)
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float()


def _augment_boxes(boxes: Tensor, transform: Tensor) -> Tensor:
    linear = transform[:3, :3]
    scale = float(linear[2, 2])
    heading = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], dim=-1).double() @ linear[:2, :2].T
    centre = boxes[:, :3].double() @ linear.T
    velocity = boxes[:, 7:9].double() @ linear[:2, :2].T
    yaw = torch.atan2(heading[:, 1], heading[:, 0])
    return torch.cat([centre, boxes[:, 3:6].double() * scale, yaw[:, None], velocity], dim=-1).to(boxes.dtype)


def _augment_cameras(cameras: CameraInput, transform: Tensor) -> CameraInput:
    inverse = torch.linalg.inv(transform)
    image_from_ego = (cameras.image_from_ego.double() @ inverse).to(cameras.image_from_ego.dtype)
    return replace(
        cameras,
        image_from_ego=image_from_ego,
        global_from_ego=transform @ cameras.global_from_ego @ inverse,
        motion=None if cameras.motion is None else _augment_motion(cameras.motion, transform),
    )


def _augment_motion(motion: Tensor, transform: Tensor) -> Tensor:
    """Carry acceleration, turn rates and velocity (B, 9) along; turn rates do not scale, and turn round in a mirror."""
    matrix = transform[:3, :3]
    acceleration, rates, velocity = motion.double().unflatten(-1, (3, 3)).unbind(dim=1)
    of_turns = matrix * matrix.det().sign() / matrix.det().abs() ** (1 / 3)
    parts = acceleration @ matrix.T, rates @ of_turns.T, velocity @ matrix.T
    return torch.cat(parts, dim=-1).to(motion.dtype)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _happens(probability: float) -> bool:
    return float(torch.rand(())) < probability
