"""Matched detections of one class by scene: all that its curves need, with any weights of the scenes, and no boxes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.nuscenes import ERROR_NAMES
from training.score.blob import from_blob, to_blob
from training.score.curves import Floats, Hits

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # [m] between centres, of the protocol
ERROR_THRESHOLD = 2  # place of the 2 m at which the protocol measures errors
NUM_ERRORS = len(ERROR_NAMES)
_LEVELS = 65535  # scores are kept in 16 bits


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMatches:
    """Detections of a class by scene, best score first, and what they hit; all arrays but `truth` have a row each."""

    scene: NDArray[np.int64]  # number of the scene, rising
    score: Floats  # 0...1
    hits: NDArray[np.bool_]  # (N, 4) by THRESHOLDS
    errors: Floats  # (N, 5) by ERROR_NAMES, of hits at 2 m; NaN of others and where undefined
    truth: NDArray[np.int64]  # boxes of ground truth by scene

    @property
    def num_truth(self) -> int:
        """Boxes of ground truth."""
        return int(self.truth.sum())

    def at(self, threshold: int) -> Hits:
        """Ready to be counted at a place of THRESHOLDS; with errors at that of the protocol."""
        errors = self.errors if threshold == ERROR_THRESHOLD else None
        return Hits(self.scene, self.score, self.hits[:, threshold], self.truth, errors)

    def of_scene(self, scene: int) -> Self:
        """One scene alone, as scene 0."""
        rows = self.scene == scene
        return type(self)(
            scene=np.zeros(int(rows.sum()), dtype=np.int64),
            score=self.score[rows],
            hits=self.hits[rows],
            errors=self.errors[rows],
            truth=self.truth[scene : scene + 1],
        )

    @classmethod
    def nothing(cls, num_scenes: int) -> Self:
        """No object and no detection."""
        return cls(
            scene=np.zeros(0, dtype=np.int64),
            score=np.zeros(0),
            hits=np.zeros((0, len(THRESHOLDS)), dtype=np.bool_),
            errors=np.zeros((0, NUM_ERRORS)),
            truth=np.zeros(num_scenes, dtype=np.int64),
        )

    def packed(self) -> dict[str, Any]:
        """Plain values for JSON: scores in 16 bits, errors in half precision, deflated; about two bytes a detection."""
        levels = np.maximum(np.rint(self.score * _LEVELS), self.score > 0).astype(np.uint16)
        bits = (self.hits << np.arange(len(THRESHOLDS))).sum(axis=1)
        with_errors = self.hits[:, ERROR_THRESHOLD]
        return {
            "truth": self.truth.tolist(),
            "found": np.bincount(self.scene, minlength=len(self.truth)).tolist(),
            "scores": to_blob(np.diff(levels, prepend=np.uint16(0))),  # wraps around
            "hits": to_blob(bits.astype(np.uint8)),
            "errors": to_blob(self.errors[with_errors].astype(np.float16)),
        }

    @classmethod
    def unpacked(cls, content: Mapping[str, Any]) -> Self:
        """Inverse of `packed`; a ValueError where the content does not fit together."""
        truth = np.array(content["truth"], dtype=np.int64)
        counts = np.array(content["found"], dtype=np.int64)
        if truth.ndim != 1 or counts.shape != truth.shape or min(truth.min(initial=0), counts.min(initial=0)) < 0:
            raise ValueError("counts by scene do not fit together")
        total = int(counts.sum())
        levels = np.cumsum(from_blob(content["scores"], np.uint16, total), dtype=np.uint16)
        bits = from_blob(content["hits"], np.uint8, total)
        hits = (bits[:, None] >> np.arange(len(THRESHOLDS)) & 1).astype(np.bool_)
        with_errors = hits[:, ERROR_THRESHOLD]
        errors = np.full((total, NUM_ERRORS), np.nan)
        known = from_blob(content["errors"], np.float16, int(with_errors.sum()) * NUM_ERRORS)
        errors[with_errors] = known.reshape(-1, NUM_ERRORS)
        return cls(
            scene=np.repeat(np.arange(len(truth)), counts),
            score=levels.astype(np.float64) / _LEVELS,
            hits=hits,
            errors=errors,
            truth=truth,
        )
