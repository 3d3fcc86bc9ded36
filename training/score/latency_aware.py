"""The score of what was there in time: each key frame is scored with the newest output published by then.

A detector that answers late describes a world that has moved on. At the instant of a key frame, the stamp of its image
of the reference camera, whoever acts has the newest output published until then, often of an earlier image. Its boxes
lie in the ego frame at that image's stamp, so they go to the global frame by the ego pose at their own stamp: what
stands still stays where it is. What moves may be carried on by its velocity to the instant. An output that takes no
time is the key frame's own, so without latency this is the ordinary score. After Towards Streaming Perception (arXiv
2005.10420), with the metrics of nuScenes; the deviation: ground truth is compared at key frames, not between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.records import Detections
from training.evaluate.metrics import Metrics
from training.evaluate.results import Results, results_from
from training.score.boxes import BoxTable
from training.score.detections import found_in
from training.score.eligible import eligible, off_racks
from training.score.frames import Frames
from training.score.matching import by_class, match
from training.score.recorded import TOLERANCE_NS, Instant, Output, RecordedDrives
from training.score.scores import class_scores, scored

VELOCITY = slice(7, 9)


@dataclass(frozen=True, kw_only=True)
class InTime:
    """What was there at the key frames, if each output had come later by a delay."""

    extra_delay_ms: float
    metrics: Metrics
    age_ms: tuple[float, ...]  # of the outputs taken: stamp of their set to the instant, by key frame
    without: int  # key frames before the first output of their scene

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ages = {f"p{share}": float(np.percentile(self.age_ms, share)) for share in (50, 95)} if self.age_ms else {}
        return {
            "extra_delay_ms": self.extra_delay_ms,
            "key_frames_without_output": self.without,
            "age_ms": ages,
            "nds": self.metrics.nds,
            "mean_ap": self.metrics.mean_ap,
            "metrics": asdict(self.metrics),
        }


def score_in_time(
    nusc: NuScenes,
    drives: RecordedDrives,
    truth: BoxTable,
    frames: Frames,
    split: str,
    *,
    carry: bool,
    extra_delay_ms: float = 0.0,
) -> InTime:
    """Score each key frame with what had been published by its instant.

    Args:
        nusc: The data set.
        drives: Key frames and outputs.
        truth: Boxes of ground truth that the devkit counts.
        frames: Of the split.
        split: Its name.
        carry: Whether boxes go on by their velocity.
        extra_delay_ms: What every output would come later.
    """
    results, ages = in_time_results(drives, carry=carry, extra_delay_ms=extra_delay_ms)
    found = found_in(off_racks(nusc, results), frames)
    found = found.take(eligible(found))
    matches = by_class(match(truth, found, len(frames.tokens)), frames.scene)
    metrics = scored(matches, class_scores(matches), split, len(frames.tokens)).metrics
    return InTime(
        extra_delay_ms=extra_delay_ms,
        metrics=metrics,
        age_ms=tuple(age for age in ages.values() if age is not None),
        without=sum(age is None for age in ages.values()),
    )


def in_time_results(
    drives: RecordedDrives, *, carry: bool, extra_delay_ms: float = 0.0
) -> tuple[Results, Mapping[str, float | None]]:
    """Detections of each key frame as a results file has them, and the age of the output taken [ms], None for none."""
    found: dict[str, Detections] = {}
    poses: dict[str, torch.Tensor] = {}
    ages: dict[str, float | None] = {}
    delay_ns = round(extra_delay_ms * 1e6)
    for instant in drives.instants:
        output = newest(drives.outputs.get(instant.scene, ()), instant, delay_ns)
        if output is None:
            found[instant.token], ages[instant.token] = Detections.empty(instant.stamp_ns), None
            poses[instant.token] = torch.from_numpy(instant.global_from_ego)
            continue
        age_ns = instant.stamp_ns - output.stamp_ns
        is_own = abs(age_ns) <= TOLERANCE_NS
        found[instant.token] = output.detections if is_own or not carry else carried(output.detections, age_ns / 1e9)
        poses[instant.token] = torch.from_numpy(output.global_from_ego)
        ages[instant.token] = age_ns / 1e6
    return results_from(found, poses), ages


def newest(outputs: Sequence[Output], instant: Instant, delay_ns: int = 0) -> Output | None:
    """The output of the newest set that had been published by an instant, had each come later by a delay."""
    until = instant.stamp_ns + TOLERANCE_NS
    there = [output for output in outputs if output.published_ns + delay_ns <= until]
    return max(there, key=lambda output: output.stamp_ns, default=None)


def carried(detections: Detections, seconds: float) -> Detections:
    """Detections whose boxes have moved on by their velocity, in the ego frame as it was at their stamp."""
    boxes = detections.boxes.clone()
    boxes[:, :2] += boxes[:, VELOCITY] * seconds
    return replace(detections, boxes=boxes)
