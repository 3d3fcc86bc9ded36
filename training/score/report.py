"""`report.json` of `bevdistill score`: all that gates and pages need, without the data set; see docs/scores.md."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from training.evaluate.metrics import RESULTS, Metrics
from training.score.boxes import BoxTable
from training.score.by_class import ERROR_THRESHOLD, THRESHOLDS, ClassMatches
from training.score.detections import detections_of
from training.score.frames import Frames, counts_of, operating_scores
from training.score.matching import Matches, by_class, match
from training.score.parts import Parts
from training.score.schema import SCENES, SCHEMA, WHOLE
from training.score.scores import ClassScore, Scored, class_scores, scored


def head_of(source: Mapping[str, str], frames: Frames, found: BoxTable, min_score: float) -> dict[str, Any]:
    """What a report has of detections, with ground truth or without.

    Args:
        source: Where the frames are from.
        frames: Of the split.
        found: All detections in them.
        min_score: Least score of a detection that counts where there is no ground truth to choose by.
    """
    return {
        "schema": SCHEMA,
        "source": dict(source),
        "results": RESULTS,
        "frames": frames.to_dict(),
        "detections": detections_of(found, frames, min_score),
    }


def scores_of(
    official: Metrics,
    truth: BoxTable,
    found: BoxTable,
    frames: Frames,
    groups: Mapping[str, Parts],
    *,
    with_scenes: bool,
) -> tuple[dict[str, Any], dict[str, dict[str, Scored]]]:
    """What a report has of scores, and the scores of its parts.

    Args:
        official: The devkit's metrics of the whole.
        truth: Boxes of ground truth that the devkit counts.
        found: Detections that it counts.
        frames: Of the split.
        groups: Parts by name of the group.
        with_scenes: Whether each scene is scored too.
    """
    matches = match(truth, found, len(frames.tokens))
    whole = by_class(matches, frames.scene)
    scores = class_scores(whole)
    least = operating_scores({name: score.curves[THRESHOLDS[ERROR_THRESHOLD]] for name, score in scores.items()})
    content: dict[str, Any] = {
        WHOLE: asdict(official),
        "operating_scores": least,
        "frame_counts": counts_of(matches, least),
        "curves": {WHOLE: _curves(whole, scores)},
        "matches": {WHOLE: _packed(whole)},
    }
    scored_parts: dict[str, dict[str, Scored]] = {}
    for group, parts in groups.items():
        own = {name: by_class(_part(truth, found, frames, part), frames.scene) for name, part in parts.items()}
        own_scores = {name: class_scores(part) for name, part in own.items()}
        scored_parts[group] = {
            name: scored(part, own_scores[name], official.split, len(frames.tokens)) for name, part in own.items()
        }
        content["curves"][group] = {name: _curves(part, own_scores[name]) for name, part in own.items()}
        content["matches"][group] = {name: _packed(part) for name, part in own.items()}
    if with_scenes:
        scored_parts[SCENES] = _scenes(whole, frames, official.split)
    content |= {group: {name: _plain(part) for name, part in parts.items()} for group, parts in scored_parts.items()}
    return content, scored_parts


def _part(truth: BoxTable, found: BoxTable, frames: Frames, part: Any) -> Matches:
    return match(truth.take(part(truth)), found.take(part(found)), len(frames.tokens))


def _scenes(whole: Mapping[str, ClassMatches], frames: Frames, split: str) -> dict[str, Scored]:
    scenes = {}
    for place, scene in enumerate(frames.scenes):
        own = {name: matches.of_scene(place) for name, matches in whole.items()}
        scenes[scene] = scored(own, class_scores(own), split, int((frames.scene == place).sum()))
    return scenes


def _plain(part: Scored) -> dict[str, Any]:
    return {"nds": part.nds, "mean_ap": part.mean_ap, **asdict(part)}


def _curves(matches: Mapping[str, ClassMatches], scores: Mapping[str, ClassScore]) -> dict[str, Any]:
    """Precision and score at recalls 0, 0.01, ... 1 by class and threshold, of the classes that there are."""
    return {
        name: {
            f"{threshold:g}": {
                "precision": curve.precision.round(5).tolist(),
                "score": curve.score.round(5).tolist(),
                "ap": curve.average_precision,
            }
            for threshold, curve in scores[name].curves.items()
        }
        for name, own in matches.items()
        if own.num_truth
    }


def _packed(matches: Mapping[str, ClassMatches]) -> dict[str, Any]:
    return {name: own.packed() for name, own in matches.items() if own.num_truth or len(own.score)}
