"""The public BEVFormer checkpoints that `bevdistill import-weights` knows: their graphs, as their configurations say.

Read in github.com/fundamentalvision/BEVFormer (tiny, small, base) and github.com/zehuichen123/BEVDistill (R50, R101).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.public_config import PUBLIC_GRID, PublicStudentConfig

PublicKind = Literal["bevformer_tiny", "bevformer_small", "bevformer_base", "bevdistill_t_r50", "bevdistill_t_r101"]
PUBLIC_KINDS: tuple[PublicKind, ...] = get_args(PublicKind)
NUSCENES_IMAGE = (900, 1600)  # [px] height and width
DIVISOR = 32  # of the sides of the network's input

_MMDET3D_CLASSES = (  # of BEVDistill's class logits
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
_DCN = (3, 4)


@dataclass(frozen=True, kw_only=True)
class KindFacts:
    """What sets one published checkpoint apart from the others."""

    backbone: Literal["resnet50", "resnet101"]
    is_caffe: bool  # BGR pixels minus their mean, strides in conv1
    deformable_stages: tuple[int, ...]
    cells: int  # BEV rows and columns
    encoder_layers: int
    first_stride: int  # [px]
    num_levels: int
    image_scale: float  # of a nuScenes image on the way to the network
    classes: tuple[str, ...] = CLASS_NAMES  # in the order of its logits
    published: tuple[float, float]  # mAP and NDS [%] on the validation split of nuScenes, as its authors report

    def settings(self) -> dict[str, Any]:
        """The student's settings that follow."""
        grid = PUBLIC_GRID.with_cells(self.cells, self.cells)
        rows, cols = (round(side * self.image_scale) for side in NUSCENES_IMAGE)
        return {
            "grid": BevGrid(rows=self.cells, cols=self.cells),
            "model_grid": grid,
            "image_height": -(-rows // DIVISOR) * DIVISOR,
            "image_width": -(-cols // DIVISOR) * DIVISOR,
            "padding": (-rows % DIVISOR, -cols % DIVISOR),
            "pixel_offset": round((1.0 - self.image_scale) / 2, 6),
            "backbone": self.backbone,
            "backbone_style": "caffe" if self.is_caffe else "pytorch",
            "backbone_deformable_stages": self.deformable_stages,
            "first_stride": self.first_stride,
            "num_levels": self.num_levels,
            "encoder_layers": self.encoder_layers,
        }


_FACTS: dict[PublicKind, KindFacts] = {
    "bevformer_tiny": KindFacts(
        backbone="resnet50",
        is_caffe=False,
        deformable_stages=(),
        cells=50,
        encoder_layers=3,
        first_stride=32,
        num_levels=1,
        image_scale=0.5,
        published=(25.2, 35.4),
    ),
    "bevformer_small": KindFacts(
        backbone="resnet101",
        is_caffe=True,
        deformable_stages=_DCN,
        cells=150,
        encoder_layers=3,
        first_stride=32,
        num_levels=1,
        image_scale=0.8,
        published=(37.0, 47.9),
    ),
    "bevformer_base": KindFacts(
        backbone="resnet101",
        is_caffe=True,
        deformable_stages=_DCN,
        cells=200,
        encoder_layers=6,
        first_stride=8,
        num_levels=4,
        image_scale=1.0,
        published=(41.6, 51.7),
    ),
    "bevdistill_t_r50": KindFacts(
        backbone="resnet50",
        is_caffe=False,
        deformable_stages=_DCN,
        cells=128,
        encoder_layers=6,
        first_stride=8,
        num_levels=4,
        image_scale=1.0,
        classes=_MMDET3D_CLASSES,
        published=(40.7, 51.5),
    ),
    "bevdistill_t_r101": KindFacts(
        backbone="resnet101",
        is_caffe=True,
        deformable_stages=_DCN,
        cells=128,
        encoder_layers=6,
        first_stride=8,
        num_levels=4,
        image_scale=1.0,
        classes=_MMDET3D_CLASSES,
        published=(float("nan"), float("nan")),
    ),
}


def facts_of(kind: PublicKind) -> KindFacts:
    """The facts of a kind."""
    return _FACTS[kind]


def public_config(kind: PublicKind, **changes: Any) -> PublicStudentConfig:
    """The settings of a student that takes a kind's weights; keywords change some."""
    return PublicStudentConfig(**{**facts_of(kind).settings(), **changes})
