"""Settings of the student; the defaults are the paper's scale with ResNet-50."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.model.fit import BEFORE_THE_CHOICE, FitPolicy, ImageTarget
from bevdistill_ros.model.query_selection import QuerySelection
from bevdistill_ros.model.resnet import BottleneckStyle, check_bottleneck_options

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "efficientnet_lite0"]
BackboneNorm = Literal["frozen", "batch"]
STAGE_STRIDES: tuple[int, ...] = (4, 8, 16, 32)  # [px] of the four stages of a backbone
STANDARD_WIDTH = 64  # channels of a ResNet's stem

Colour = tuple[float, float, float]
IMAGE_MEAN: Colour = (123.675, 116.28, 103.53)  # of ImageNet, RGB in 0...255
IMAGE_STD: Colour = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Everything that fixes the student's graph and the shapes of its weights.

    Raises:
        ValueError: A value is out of range, or two values do not fit each other.
    """

    grid: BevGrid = field(default_factory=BevGrid)
    cameras: tuple[str, ...] = NUSCENES_CAMERAS  # in the order of the input
    image_height: int = 928  # [px] of the network's input
    image_width: int = 1600  # [px]
    image_fit: FitPolicy = (
        "horizon"  # what is cut off and padded: horizon keeps the road, pad the whole image, top is old
    )

    backbone: BackboneName = "resnet50"
    backbone_width: int = STANDARD_WIDTH  # channels of a ResNet's stem; 64 is the standard
    backbone_style: BottleneckStyle = "pytorch"  # convolution with a bottleneck's stride: the 3x3, or the first (caffe)
    backbone_deformable_stages: tuple[int, ...] = ()  # of 1 to 4, with deformable 3x3 convolutions (DCNv2)
    backbone_norm: BackboneNorm = "frozen"  # frozen: statistics and scales of the loaded weights; batch: trained
    frozen_stages: int = 1  # the stem and this many stages are not trained; 0 trains the stem too
    first_stride: int = 8  # [px] of the finest feature level, one of 4, 8, 16, 32
    num_levels: int = 4  # feature levels, each of twice the stride; beyond stride 32 by extra convolutions

    embed_dim: int = 256  # channels of image features, BEV and queries
    num_heads: int = 8
    feedforward_dim: int = 512  # hidden channels of the feed-forward blocks
    dropout: float = 0.1

    encoder_layers: int = 6
    num_heights: int = 4  # reference points in a BEV pillar
    points_per_height: int = 2  # image samples per head, level and height
    bev_points: int = 4  # BEV samples per head of the encoder's self-attention
    temporal: bool = False  # whether the previous BEV takes part

    decoder_layers: int = 6
    decoder_points: int = 4  # BEV samples per head of the decoder's cross-attention
    num_queries: int = 900
    query_selection: QuerySelection = "learned"  # or heatmap: start on the peaks of a class heatmap, learns faster

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_counts()
        self._check_fit()

    @property
    def bev_grid(self) -> BevGrid:
        """Of the BEV map that the network makes and remembers."""
        return self.grid

    @property
    def region(self) -> BevGrid:
        """Where a box must have its centre to count."""
        return self.grid

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Strides [px] of the backbone stages in use, finest first."""
        return tuple(stride for stride in self.level_strides if stride in STAGE_STRIDES)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Strides [px] of the feature levels, finest first."""
        return tuple(self.first_stride * 2**level for level in range(self.num_levels))

    @property
    def image_mean(self) -> Colour:
        """What the network subtracts from pixels, RGB in 0...255, as the backbone's ImageNet weights expect."""
        return (127.0, 127.0, 127.0) if self.backbone == "efficientnet_lite0" else IMAGE_MEAN

    @property
    def image_std(self) -> Colour:
        """What the network then divides by."""
        return (128.0, 128.0, 128.0) if self.backbone == "efficientnet_lite0" else IMAGE_STD

    @property
    def images(self) -> ImageTarget:
        """What `model.preprocess` makes of camera images; padding of the mean colour is about zero to the network."""
        red, green, blue = map(round, self.image_mean)
        fill = (0, 0, 0) if self.image_fit == "top" else (red, green, blue)
        return ImageTarget(height=self.image_height, width=self.image_width, policy=self.image_fit, fill=fill)

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("backbone", get_args(BackboneName)),
            ("backbone_norm", get_args(BackboneNorm)),
            ("first_stride", STAGE_STRIDES),
            ("num_levels", (1, 2, 3, 4)),
            ("frozen_stages", (0, 1, 2, 3, 4)),
            ("query_selection", get_args(QuerySelection)),
            ("image_fit", get_args(FitPolicy)),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                listed = ", ".join(map(str, allowed))
                raise ValueError(f"student.{name} must be one of {listed}, but is {getattr(self, name)!r}")

    def _check_counts(self) -> None:
        positive = (
            "image_height image_width backbone_width embed_dim num_heads feedforward_dim encoder_layers num_heights"
        )
        for name in (
            *positive.split(),
            "points_per_height",
            "bev_points",
            "decoder_layers",
            "decoder_points",
            "num_queries",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"student.{name} must be at least 1, but is {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"student.dropout must be in [0, 1), but is {self.dropout}")

    def _check_fit(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(
                f"student.cameras must be different names, at least one, but are {', '.join(self.cameras)}"
            )
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise ValueError(
                f"student.embed_dim must be divisible by num_heads ({self.num_heads}) and by 4, but is {self.embed_dim}"
            )
        if self.backbone == "efficientnet_lite0" and self.backbone_width != STANDARD_WIDTH:
            raise ValueError(
                f"student.backbone_width scales ResNets only, efficientnet_lite0 has one size; leave it at "
                f"{STANDARD_WIDTH}, it is {self.backbone_width}"
            )
        check_bottleneck_options(
            self.backbone, self.backbone_style, self.backbone_deformable_stages, prefix="student.backbone_"
        )
        coarsest = self.stage_strides[-1]
        for name in ("image_height", "image_width"):
            if getattr(self, name) % coarsest:
                raise ValueError(
                    f"student.{name} must be divisible by the stride {coarsest} of the backbone, but is "
                    f"{getattr(self, name)}"
                )


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings of a student, saved before there was a choice of how images are fitted, with what held then."""
    return {"image_fit": BEFORE_THE_CHOICE, **content}
