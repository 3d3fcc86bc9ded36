"""The detection losses of a model: classification and boxes of every decoder layer, and the heatmap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.plain import check_at_least
from bevdistill_ros.model.query_selection import QuerySelection
from bevdistill_ros.model.records import SetPrediction
from training.criterion.heatmap import HeatmapHead, heatmap_loss
from training.criterion.matcher import HungarianMatcher
from training.criterion.set_loss import SetCriterion
from training.data.sample import Batch

OutOfView = Literal["ignore", "count"]


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """Weights of the detection losses; the defaults are BEVFormer's."""

    classification: float = 2.0
    box: float = 0.25
    heatmap: float = 0.0  # of the centre-heatmap auxiliary on the BEV map; 0 leaves the head out
    detach_heatmap: bool = False  # whether the heatmap trains its own head only, as in Object-DGCNN
    velocity: float = 0.2  # of vx and vy inside the box loss
    # Boxes that no camera shows, where the cameras do not look all around: ignore, they are neither matched nor
    # punished; count, they are targets as all others. With cameras all around both are the same.
    out_of_view: OutOfView = "ignore"

    def __post_init__(self) -> None:
        check_at_least(self, "criterion", 0, "classification", "box", "heatmap", "velocity")
        if self.classification + self.box == 0:
            raise ValueError("criterion.classification and criterion.box must not both be 0")
        if self.out_of_view not in get_args(OutOfView):
            raise ValueError(f"criterion.out_of_view must be ignore or count, but is {self.out_of_view!r}")


class DetectionLoss(nn.Module):
    """The detection losses of a BEV detector: set criterion and, where its weight is above 0, the centre heatmap.

    Args:
        config: Weights.
        channels: Of the BEV map.
        grid: Of the BEV map.
        query_selection: heatmap: the model has a heatmap of its own to train; otherwise the heatmap is an auxiliary.
        by_cameras: Whether the detector sees the world through the batch's cameras.
    """

    def __init__(
        self,
        config: CriterionConfig,
        *,
        channels: int,
        grid: BevGrid,
        query_selection: QuerySelection,
        by_cameras: bool = False,
    ) -> None:
        super().__init__()
        matcher = HungarianMatcher(class_weight=config.classification, box_weight=config.box)
        self.criterion = SetCriterion(matcher=matcher, grid=grid, velocity_weight=config.velocity)
        auxiliary = config.heatmap > 0 and query_selection == "learned"
        self.heatmap = HeatmapHead(channels, detach=config.detach_heatmap) if auxiliary else None
        self.grid = grid
        self.ignores_out_of_view = config.out_of_view == "ignore" and by_cameras
        self.weights = {"classification": config.classification, "box": config.box, "heatmap": config.heatmap}

    def forward(self, predictions: SetPrediction, bev: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets, annotated = self._targets(batch), batch.annotated
        truth = (targets.boxes, targets.labels)
        losses: dict[str, Tensor] = self.criterion(
            predictions, *truth, targets.ignored, weights=targets.weights, annotated=annotated
        )
        heatmap = predictions.heatmap if self.heatmap is None else self.heatmap(bev)
        if heatmap is not None:
            losses["heatmap"] = heatmap_loss(
                heatmap, *truth, self.grid, targets.ignored, weights=targets.weights, annotated=annotated
            )
        return losses

    def _targets(self, batch: Batch) -> "_Targets":
        nothing = [boxes[:0] for boxes in batch.boxes]
        if not self.ignores_out_of_view or batch.num_in_view is None:
            return _Targets(boxes=batch.boxes, labels=batch.labels, weights=batch.box_weights, ignored=nothing)
        return _Targets(
            boxes=[boxes[:count] for boxes, count in zip(batch.boxes, batch.num_in_view, strict=True)],
            labels=[labels[:count] for labels, count in zip(batch.labels, batch.num_in_view, strict=True)],
            weights=[weights[:count] for weights, count in zip(batch.box_weights, batch.num_in_view, strict=True)],
            ignored=[boxes[count:] for boxes, count in zip(batch.boxes, batch.num_in_view, strict=True)],
        )


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """Ground truth of the items of a batch."""

    boxes: Sequence[Tensor]  # B x (M_b, 9)
    labels: Sequence[Tensor]  # B x (M_b,)
    weights: Sequence[Tensor]  # B x (M_b,)
    ignored: Sequence[Tensor]  # B x (I_b, 9), boxes that no camera shows
