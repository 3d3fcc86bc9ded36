"""Settings of the public BEVFormer (arXiv 2203.17270, github.com/fundamentalvision/BEVFormer), whose weights we run.

Its network lives in the LiDAR frame of nuScenes (x right, y ahead). Images, poses and detections are given and returned
in the ego frame as for our own student; `ego_from_model` leads from one to the other, the LiDAR's tilt included.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from bevdistill_ros.core.geometry import invert_rigid, transform_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.config import (
    IMAGE_MEAN,
    IMAGE_STD,
    STAGE_STRIDES,
    BackboneName,
    BackboneNorm,
    Colour,
)
from bevdistill_ros.model.fit import FitPolicy, ImageTarget
from bevdistill_ros.model.query_selection import QuerySelection
from bevdistill_ros.model.resnet import BottleneckStyle, check_bottleneck_options

MemoryMode = Literal["warp", "rotate_shift"]
# Of the cameras' embeddings in published weights.
PUBLIC_CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
PUBLIC_GRID = BevGrid(z_min=-5.0, z_max=3.0)
# x right, y ahead, 0.94 m before and 1.84 m above the rear axle, level: about where nuScenes has its LiDAR.
LEVEL_LIDAR: tuple[float, ...] = (0.0, 1.0, 0.0, 0.94, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.84, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class TurnedRegion:
    """A box-shaped region of another frame, asked for points of the ego frame."""

    ego_from_model: Tensor  # (4, 4) [m]
    low: tuple[float, ...]  # x, y, z [m] in the model's frame
    high: tuple[float, ...]

    def contains(self, points: Tensor) -> Tensor:
        """Whether points (..., 3) [m] of the ego frame lie in the region, its border included: bool (...)."""
        model_from_ego = invert_rigid(self.ego_from_model.double()).to(points)
        inside = transform_points(model_from_ego, points)
        return ((inside >= inside.new_tensor(self.low)) & (inside <= inside.new_tensor(self.high))).all(dim=-1)


@dataclass(frozen=True, kw_only=True)
class PublicStudentConfig:
    """Everything that fixes the graph of a public BEVFormer and the shapes of its weights.

    Raises:
        ValueError: A value is out of range, or two values do not fit each other.
    """

    grid: BevGrid = field(default_factory=BevGrid)  # in the ego frame: where its BEV map is compared with others
    model_grid: BevGrid = PUBLIC_GRID  # of its own BEV, in its own frame
    ego_from_model: tuple[float, ...] = LEVEL_LIDAR  # [m] 16 numbers, row by row
    detection_range: tuple[float, ...] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)  # [m] low and high x, y, z, own frame
    cameras: tuple[str, ...] = PUBLIC_CAMERAS  # in the order of the input and of the cameras' embeddings
    image_height: int = 928  # [px] of the network's input
    image_width: int = 1600  # [px]
    padding: tuple[int, ...] = (28, 0)  # [px] of these, rows at the bottom and columns at the right without an image
    pixel_offset: float = 0.0  # [px] (1 - s) / 2 for weights trained on images scaled by s, see geometry.ViewRule

    backbone: BackboneName = "resnet50"
    backbone_width: int = 64  # channels of the stem
    backbone_style: BottleneckStyle = "pytorch"  # convolution with a bottleneck's stride
    backbone_deformable_stages: tuple[int, ...] = ()  # with deformable 3x3 convolutions (DCNv2)
    backbone_norm: BackboneNorm = "frozen"  # frozen: statistics and scales of the loaded weights; batch: trained
    frozen_stages: int = 1  # the stem and this many stages are not trained
    first_stride: int = 8  # [px] of the finest feature level, one of 4, 8, 16, 32
    num_levels: int = 4  # feature levels, each of twice the stride

    embed_dim: int = 256
    num_heads: int = 8
    feedforward_dim: int = 512
    dropout: float = 0.1
    encoder_layers: int = 6
    num_heights: int = 4  # reference points in a BEV pillar
    points_per_height: int = 2
    bev_points: int = 4
    decoder_layers: int = 6
    decoder_points: int = 4
    num_queries: int = 900

    memory: MemoryMode = "warp"  # warp: by the poses, in metres; rotate_shift: as published, for its figures
    rotate_centre: tuple[float, ...] = (100.0, 100.0)  # [cells] x, y of the rotation of rotate_shift
    shift_both: bool = True  # whether the shift moves the current map's references too, as weights of 2022 learned

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_counts()
        self._check_fit()

    @property
    def temporal(self) -> bool:
        """Whether the previous BEV takes part: always."""
        return True

    @property
    def bev_grid(self) -> BevGrid:
        """Of the BEV map that the network makes and remembers, in its own frame."""
        return self.model_grid

    @property
    def query_selection(self) -> QuerySelection:
        """Where queries start: they are parameters."""
        return "learned"

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Strides [px] of the feature levels, finest first."""
        return tuple(self.first_stride * 2**level for level in range(self.num_levels))

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Strides [px] of the backbone stages in use, finest first."""
        return tuple(stride for stride in self.level_strides if stride in STAGE_STRIDES)

    @property
    def image_mean(self) -> Colour:
        """What the network subtracts from pixels, RGB in 0...255."""
        return IMAGE_MEAN

    @property
    def image_std(self) -> Colour:
        """What the network then divides by."""
        return IMAGE_STD

    @property
    def image_fit(self) -> FitPolicy:
        """How an image is fitted to the input: never cut."""
        return "pad"

    @property
    def images(self) -> ImageTarget:
        """What `model.preprocess` makes of camera images: all of them, padded with the mean colour."""
        red, green, blue = map(round, self.image_mean)
        fill, margin = (red, green, blue), (self.padding[0], self.padding[1])
        return ImageTarget(
            height=self.image_height, width=self.image_width, policy=self.image_fit, fill=fill, margin=margin
        )

    @property
    def region(self) -> TurnedRegion:
        """Where a box must have its centre to count."""
        pose = torch.tensor(self.ego_from_model, dtype=torch.float64).reshape(4, 4)
        return TurnedRegion(pose, self.detection_range[:3], self.detection_range[3:])

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("backbone", get_args(BackboneName)),
            ("backbone_norm", get_args(BackboneNorm)),
            ("first_stride", STAGE_STRIDES),
            ("num_levels", (1, 2, 3, 4)),
            ("frozen_stages", (0, 1, 2, 3, 4)),
            ("memory", get_args(MemoryMode)),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise ValueError(f"public.{name} must be one of {listed}, but is {getattr(self, name)!r}")
        check_bottleneck_options(
            self.backbone, self.backbone_style, self.backbone_deformable_stages, prefix="public.backbone_"
        )

    def _check_counts(self) -> None:
        names = (
            "image_height image_width backbone_width embed_dim num_heads feedforward_dim encoder_layers num_heights "
            "points_per_height bev_points decoder_layers decoder_points num_queries"
        )
        for name in names.split():
            if getattr(self, name) < 1:
                raise ValueError(f"public.{name} must be at least 1, but is {getattr(self, name)}")
        for name, count in (("ego_from_model", 16), ("detection_range", 6), ("rotate_centre", 2), ("padding", 2)):
            if len(getattr(self, name)) != count:
                raise ValueError(f"public.{name} must be {count} numbers, but is {len(getattr(self, name))}")
        for name in ("detection_range", "rotate_centre"):
            if not all(map(math.isfinite, getattr(self, name))):
                raise ValueError(f"public.{name} must be finite, but is {list(getattr(self, name))}")
        if not abs(self.pixel_offset) <= 1.0:
            raise ValueError(f"public.pixel_offset must be in [-1, 1], but is {self.pixel_offset}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"public.dropout must be in [0, 1), but is {self.dropout}")

    def _check_fit(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"public.cameras must be different names, at least one, but are {', '.join(self.cameras)}")
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(
                f"public.embed_dim must be divisible by num_heads ({self.num_heads}) and by 4, but is {self.embed_dim}"
            )
        for name, padding in zip(("image_height", "image_width"), self.padding, strict=True):
            if getattr(self, name) % 32:
                raise ValueError(f"public.{name} must be a multiple of 32, but is {getattr(self, name)}")
            if not 0 <= padding < getattr(self, name):
                raise ValueError(f"public.padding must be within the image, but is {list(self.padding)}")
        pose = torch.tensor(self.ego_from_model, dtype=torch.float64).reshape(4, 4)
        rotation = pose[:3, :3]
        is_rigid = torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-4)
        if not is_rigid or rotation.det() < 0 or pose[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
            raise ValueError("public.ego_from_model must be a rigid transform of 16 numbers, row by row")
