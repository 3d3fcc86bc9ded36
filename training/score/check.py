"""Whether the content of a report has the shape that gates and pages rely on."""

from collections.abc import Iterable, Mapping
from typing import Any

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.score.detections import SCORE_BINS
from training.score.schema import BANDS, REGIONS, SCENES, WHOLE

_COLUMNS: dict[str, type | tuple[type, ...]] = {"token": str, "scene": str, "stamp_us": int, "ego": list}
_MAPPINGS = ("operating_scores", "frame_counts", "curves", "matches", BANDS, REGIONS, SCENES, "latency_aware", "timing")


def check_shape(content: Mapping[str, Any]) -> None:
    """Raise ValueError, with what is wrong, where a report is not of this shape."""
    frames = _mapping(content.get("frames"), "frames")
    count = len(_list(frames.get("token"), "frames.token"))
    if not count:
        raise ValueError("it has no frames")
    for name, kind in _COLUMNS.items():
        column = _list(frames.get(name), f"frames.{name}")
        if len(column) != count or not all(isinstance(entry, kind) for entry in column):
            raise ValueError(f"frames.{name} is not one {name} a frame")
    if not all(len(pose) == 3 and _are_numbers(pose) for pose in frames["ego"]):
        raise ValueError("frames.ego is not x, y and heading")
    source = _mapping(content.get("source"), "source")
    if not all(isinstance(source.get(key), str) for key in ("root", "version", "split")):
        raise ValueError("source has no root, version and split")
    _check_detections(_mapping(content.get("detections"), "detections"), count, len(set(frames["scene"])))
    for key in _MAPPINGS:
        _mapping(content.get(key, {}), key)
    if WHOLE in content:
        _check_scores(content, count)


def _check_detections(detections: Mapping[str, Any], num_frames: int, num_scenes: int) -> None:
    if not _are_numbers([detections.get("min_score")]):
        raise ValueError("detections.min_score is not a number")
    _check_columns(detections.get("counts"), num_frames, "detections.counts")
    _check_columns(detections.get("score_histograms"), SCORE_BINS, "detections.score_histograms")
    flicker = _mapping(detections.get("flicker"), "detections.flicker")
    for kind in ("boxes", "flickers"):
        _check_columns(flicker.get(kind), num_scenes, f"detections.flicker.{kind}")


def _check_scores(content: Mapping[str, Any], num_frames: int) -> None:
    for key in ("curves", "matches"):
        for part in (WHOLE, BANDS, REGIONS):
            _mapping(_mapping(content.get(key), key).get(part, {}), f"{key}.{part}")
        if WHOLE not in content[key]:
            raise ValueError(f"{key}.{WHOLE} is missing")
    for group in (BANDS, REGIONS):
        for name, part in content["matches"].get(group, {}).items():
            _mapping(part, f"matches.{group}.{name}")
    counts = _mapping(content.get("frame_counts"), "frame_counts")
    for kind in ("truth", "found", "missed", "false"):
        _check_columns(counts.get(kind), num_frames, f"frame_counts.{kind}")
    scores = _mapping(content.get("operating_scores"), "operating_scores")
    if set(scores) != set(CLASS_NAMES) or not _are_numbers(scores.values()):
        raise ValueError("operating_scores is not a number for each class")


def _check_columns(content: object, length: int, what: str) -> None:
    """A list of numbers for each of some classes."""
    for name, column in _mapping(content, what).items():
        values = _list(column, f"{what}.{name}")
        if name not in CLASS_NAMES or len(values) != length or not _are_numbers(values):
            raise ValueError(f"{what}.{name} is not {length} numbers of a class")


def _are_numbers(values: Iterable[object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _mapping(content: object, what: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{what} is missing or not a mapping")
    return content


def _list(content: object, what: str) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError(f"{what} is missing or not a list")
    return content
