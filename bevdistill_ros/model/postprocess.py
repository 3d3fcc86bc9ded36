"""From predictions to detections."""

from collections.abc import Sequence

import torch

from bevdistill_ros.core.boxes import decode_boxes, wrap_angle
from bevdistill_ros.core.grid import Region
from bevdistill_ros.core.records import Detections
from bevdistill_ros.model.records import Answer, SetPrediction


@torch.no_grad()
def detections_from(
    predictions: SetPrediction | Answer, stamps_ns: Sequence[int], *, max_detections: int = 300, grid: Region
) -> list[Detections]:
    """Turn the last decoder layer into detections, by falling score.

    Every query may give several classes; the best (query, class) pairs of all are taken, without suppression of
    overlaps, as the set loss leaves one query per object. Boxes with their centre outside the region are dropped.

    Args:
        predictions: Of B frames.
        stamps_ns: Reference stamps of the B frames [ns].
        max_detections: Maximum detections per frame.
        grid: Where a box must have its centre, such as in the BEV grid.

    Returns:
        B detections, on the device of the predictions.

    Raises:
        ValueError: The number of stamps differs from the batch, or `max_detections` is below 1.
    """
    logits, codes = predictions.logits[-1].float(), predictions.codes[-1].float()
    if len(stamps_ns) != len(logits):
        raise ValueError(f"{len(logits)} frames need as many stamps, but got {len(stamps_ns)}")
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, but is {max_detections}")
    num_classes = logits.shape[-1]
    scores, place = logits.sigmoid().flatten(1).topk(min(max_detections, logits[0].numel()), dim=1)
    results = []
    for stamp_ns, score, index, code in zip(stamps_ns, scores, place, codes, strict=True):
        boxes = decode_boxes(code[index // num_classes])
        boxes[:, 6] = wrap_angle(boxes[:, 6])
        inside = grid.contains(boxes[:, :3])
        labels = index % num_classes
        results.append(Detections(stamp_ns=stamp_ns, boxes=boxes[inside], scores=score[inside], labels=labels[inside]))
    return results
