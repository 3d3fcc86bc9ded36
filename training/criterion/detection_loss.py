"""The detection losses of a model: classification and boxes of every decoder layer, and the heatmap."""

from dataclasses import dataclass

from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.plain import check_at_least
from bevdistill_ros.model.query_selection import QuerySelection
from bevdistill_ros.model.records import SetPrediction
from training.criterion.heatmap import HeatmapHead, heatmap_loss
from training.criterion.matcher import HungarianMatcher
from training.criterion.set_loss import SetCriterion
from training.data.sample import Batch


@dataclass(frozen=True, kw_only=True)
class CriterionConfig:
    """Weights of the detection losses; the defaults are BEVFormer's."""

    classification: float = 2.0
    box: float = 0.25
    heatmap: float = 0.0  # of the centre-heatmap auxiliary on the BEV map; 0 leaves the head out
    detach_heatmap: bool = False  # whether the heatmap trains its own head only, as in Object-DGCNN
    velocity: float = 0.2  # of vx and vy inside the box loss

    def __post_init__(self) -> None:
        check_at_least(self, "criterion", 0, "classification", "box", "heatmap", "velocity")
        if self.classification + self.box == 0:
            raise ValueError("criterion.classification and criterion.box must not both be 0")


class DetectionLoss(nn.Module):
    """The detection losses of a BEV detector: set criterion and, where its weight is above 0, the centre heatmap.

    Args:
        config: Weights.
        channels: Of the BEV map.
        grid: Of the BEV map.
        query_selection: heatmap: the model has a heatmap of its own to train; otherwise the heatmap is an auxiliary.
    """

    def __init__(
        self, config: CriterionConfig, *, channels: int, grid: BevGrid, query_selection: QuerySelection
    ) -> None:
        super().__init__()
        matcher = HungarianMatcher(class_weight=config.classification, box_weight=config.box)
        self.criterion = SetCriterion(matcher=matcher, grid=grid, velocity_weight=config.velocity)
        auxiliary = config.heatmap > 0 and query_selection == "learned"
        self.heatmap = HeatmapHead(channels, detach=config.detach_heatmap) if auxiliary else None
        self.grid = grid
        self.weights = {"classification": config.classification, "box": config.box, "heatmap": config.heatmap}

    def forward(self, predictions: SetPrediction, bev: Tensor, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.criterion(predictions, batch.boxes, batch.labels)
        heatmap = predictions.heatmap if self.heatmap is None else self.heatmap(bev)
        if heatmap is not None:
            losses["heatmap"] = heatmap_loss(heatmap, batch.boxes, batch.labels, self.grid)
        return losses
