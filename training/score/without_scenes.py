"""The scores of a split without each of its scenes in turn: how much they hang on which scenes were scored."""

from pathlib import Path

import numpy as np
from nuscenes.nuscenes import NuScenes

from training.evaluate.metrics import load_boxes
from training.score.boxes import table_of
from training.score.frames import frames_of
from training.score.matching import by_class, match
from training.score.scores import class_scores, scored


def scores_without_scenes(nusc: NuScenes, split: str, folder: Path) -> dict[str, tuple[float, float]]:
    """NDS and mAP, 0...1, without each scene, by its name.

    Args:
        nusc: The data set.
        split: Of it.
        folder: Where an evaluation of that split left its results.

    Raises:
        ValueError: There is no such split.
    """
    frames = frames_of(nusc, split)
    truth, found = (table_of(boxes, frames.tokens) for boxes in load_boxes(nusc, split, folder))
    matches = by_class(match(truth, found, len(frames.tokens)), frames.scene)
    scores = {}
    for number, name in enumerate(frames.scenes):
        weights = (np.arange(len(frames.scenes)) != number).astype(np.float64)
        metrics = scored(matches, class_scores(matches, weights), split, len(frames.tokens)).metrics
        scores[name] = (metrics.nds, metrics.mean_ap)
    return scores
