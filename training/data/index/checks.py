"""What tables in nuScenes format must hold to be learned from: each fault is one line that names the record."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import matrix_from_quaternion, transform_from, yaw_of

MICROSECONDS = {"nanoseconds": 1e-3, "milliseconds": 1e3, "seconds": 1e6}  # of one of each
SAMPLE_GAP = (0.005, 10.0)  # [s] between the samples of a scene, in the median, that timestamps in microseconds give
MAX_OFFSET = 5.0  # [s] between a sample's timestamp and those of its key frames

Record = Mapping[str, Any]


class TableFault(ValueError):
    """A value in a table that cannot be right; the message needs no more words."""


def pose_of(record: Record, table: str) -> np.ndarray:
    """The transform (4, 4) of a record's rotation (w x y z) and translation [m]."""
    try:
        transform = transform_from(record["rotation"], record["translation"])
    except (ValueError, TypeError) as error:
        raise _fault(record, table, "rotation and translation must be 4 and 3 finite numbers", error) from error
    if len(record["translation"]) != 3 or not np.isfinite(transform).all():
        raise _fault(record, table, "translation must be 3 finite numbers [m]", record["translation"])
    return transform


def intrinsics_of(record: Record) -> np.ndarray:
    """A camera's matrix (3, 3) [px]; NaN for a sensor that has none."""
    given = record["camera_intrinsic"]
    if not given:
        return np.full((3, 3), np.nan)
    try:
        matrix = np.array(given, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise _fault(record, "calibrated_sensor", "camera_intrinsic must be a 3x3 matrix", error) from error
    if matrix.shape != (3, 3):
        shape = "x".join(map(str, matrix.shape))
        raise _fault(record, "calibrated_sensor", "camera_intrinsic must be a 3x3 matrix", f"{shape}")
    if not np.isfinite(matrix).all() or min(matrix[0, 0], matrix[1, 1]) <= 0 or matrix[2].tolist() != [0, 0, 1]:
        words = "camera_intrinsic must be finite with focal lengths above 0 and a last row of 0 0 1"
        raise _fault(record, "calibrated_sensor", words, matrix.tolist())
    return matrix


def box_of(record: Record) -> list[float]:
    """[x y z l w h yaw] of an annotation in the global frame [m, rad]."""
    size, place = record["size"], record["translation"]
    if not _is_vector(size, 3) or min(size) <= 0:
        raise _fault(record, "sample_annotation", "size must be 3 finite numbers above 0 [m]", size)
    if not _is_vector(place, 3):
        raise _fault(record, "sample_annotation", "translation must be 3 finite numbers [m]", place)
    try:
        yaw = yaw_of(matrix_from_quaternion(record["rotation"]))
    except (ValueError, TypeError) as error:
        raise _fault(record, "sample_annotation", "rotation must be a quaternion", error) from error
    width, length, height = size
    return [*place, length, width, height, yaw]


def points_of(record: Record) -> int:
    """LiDAR points in an annotation; 0 where the table, as of cameras alone, does not count them."""
    count = record.get("num_lidar_pts") or 0
    if not isinstance(count, int | float) or not 0 <= count < 2**62:
        raise _fault(record, "sample_annotation", "num_lidar_pts must be a whole number of at least 0", count)
    return int(count)


def score_of(record: Record) -> float:
    """How sure the detector was that made an annotation; 1 where it has no score, as of people."""
    score = record.get("score", 1.0)
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _fault(record, "sample_annotation", "score must be a number in 0...1", score)
    return float(score)


def stamp_of(record: Record, table: str) -> int:
    """Timestamp of a record [us]."""
    stamp = record["timestamp"]
    if not isinstance(stamp, int | float) or not abs(stamp) < 2**62:
        raise _fault(record, table, "timestamp must be a whole number of microseconds", stamp)
    return int(stamp)


def check_camera_sizes(sizes: np.ndarray, files: np.ndarray) -> None:
    """Refuse images (K, 2) whose height or width [px] the tables do not know."""
    unknown = np.flatnonzero((sizes <= 0).any(axis=-1))
    if len(unknown):
        height, width = sizes[unknown[0]]
        raise TableFault(
            f"sample_data of {files[unknown[0]].decode()} has height {height} and width {width}, as {len(unknown)} of "
            f"{len(sizes)} key images: write the images' sizes [px] into sample_data"
        )


def check_sample_stamps(stamps: np.ndarray, previous: np.ndarray, tokens: np.ndarray) -> None:
    """Refuse stamps (S,) [us] that do not rise along a scene, or that are of another unit."""
    later = np.flatnonzero(previous >= 0)
    gaps = stamps[later] - stamps[previous[later]]
    if not len(later):
        return
    if not stamps.any() or not gaps.any():
        raise TableFault("all samples of a scene have the same timestamp; velocities need them in microseconds")
    median = float(np.median(gaps))
    low, high = (1e6 * limit for limit in SAMPLE_GAP)
    if median > 0 and not low <= median <= high:
        fitting = [unit for unit, factor in MICROSECONDS.items() if low <= median * factor <= high]
        hint = f"they look like {fitting[0]}" if fitting else "check their unit"
        raise TableFault(
            f"the samples of a scene are {1e-6 * median:g} s apart in the median if their timestamps are microseconds, "
            f"as in nuScenes; {hint}: write microseconds"
        )
    wrong = np.flatnonzero(gaps <= 0)
    if len(wrong):
        row = later[wrong[0]]
        raise TableFault(
            f"sample {tokens[row].decode()} is not after {tokens[previous[row]].decode()}, which its 'prev' names "
            f"({1e-6 * gaps[wrong[0]]:g} s): 'prev' must lead back in time, without a circle"
        )


def check_key_stamps(stamps: np.ndarray, samples: np.ndarray, files: np.ndarray) -> None:
    """Refuse key frames whose stamps (K,) [us] are far from those of their samples (K,)."""
    if not len(stamps):
        return
    offsets = 1e-6 * np.abs(stamps - samples)
    worst = int(offsets.argmax())
    if offsets[worst] > MAX_OFFSET:
        raise TableFault(
            f"sample_data of {files[worst].decode()} is {offsets[worst]:g} s away from its sample, as "
            f"{int((offsets > MAX_OFFSET).sum())} of {len(offsets)} key frames: both timestamps must be microseconds "
            "of one clock"
        )


def check_sweep_stamps(stamps: np.ndarray, sweeps: np.ndarray, files: np.ndarray) -> None:
    """Refuse sweeps (S, 1 + n), rows of stamps [us] or -1, that do not go back in time."""
    earlier, later = sweeps[:, 1:], sweeps[:, :-1]
    wrong = (earlier >= 0) & (stamps[earlier] >= stamps[later])
    if wrong.any():
        sample, step = np.argwhere(wrong)[0]
        raise TableFault(
            f"sample_data of {files[earlier[sample, step]].decode()} is not before that of "
            f"{files[later[sample, step]].decode()}, whose 'prev' it is: 'prev' must lead back in time"
        )


def check_annotation_links(stamps: np.ndarray, previous: np.ndarray, following: np.ndarray, tokens: np.ndarray) -> None:
    """Refuse annotations (A,) at stamps [us] whose rows before and after (-1 is none) are not earlier and later."""
    for name, rows, sign in (("prev", previous, -1), ("next", following, 1)):
        wrong = np.flatnonzero((rows >= 0) & (sign * (stamps[rows] - stamps) <= 0))
        if len(wrong):
            raise TableFault(
                f"sample_annotation {tokens[wrong[0]].decode()}: its '{name}' {tokens[rows[wrong[0]]].decode()} is not "
                f"{'earlier' if sign < 0 else 'later'}; link the annotations of an instance in the order of time"
            )


def _is_vector(values: object, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(isinstance(value, int | float) and np.isfinite(value) for value in values)
    )


def _fault(record: Record, table: str, words: str, given: object) -> TableFault:
    sample = f" of sample {record['sample_token']}" if "sample_token" in record else ""
    return TableFault(f"{table} {record['token']}{sample}: {words}, but is {str(given)[:200]}")
