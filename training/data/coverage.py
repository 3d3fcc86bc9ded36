"""How much of the cameras of a data set reaches a student: warned of, or refused, before anything is trained on it."""

import logging

import numpy as np

from bevdistill_ros.inference.coverage import CameraCoverage, coverage_of
from bevdistill_ros.model.student import StudentSettings
from training.data.index.arrays import NuScenesIndex

_LOG = logging.getLogger(__name__)


def check_coverage(index: NuScenesIndex, split: str, student: StudentSettings, *, refuse: bool) -> None:
    """Warn of cameras of which the student sees too little.

    Args:
        index: Of the data set.
        split: Name of the split.
        student: Its cameras and what it takes of an image.
        refuse: Whether a camera of which it misses most is an error.

    Raises:
        ValueError: The split does not exist or a camera is missing; or the student misses most of a camera, and
            `refuse` is set.
    """
    found = split_coverage(index, split, student)
    lost = [coverage.problem for coverage in found if coverage.is_too_little]
    if lost and refuse:
        raise ValueError("; ".join(lost))
    for coverage in found:
        if coverage.problem:
            _LOG.warning("%s", coverage.problem)


def split_coverage(index: NuScenesIndex, split: str, student: StudentSettings) -> list[CameraCoverage]:
    """Coverage of each camera of the student, of several calibrations in a split the worst."""
    samples = index.samples_of(split)
    return [_worst(index, samples, name, student) for name in student.cameras]


def _worst(index: NuScenesIndex, samples: np.ndarray, name: str, student: StudentSettings) -> CameraCoverage:
    column = [index.cameras.index(name)]
    there = samples[index.camera_files[samples, column[0]] != b""]
    if not len(there):
        raise ValueError(f"no sample of the split has an image of camera {name}")
    calibrations = np.column_stack([index.camera_mountings[there, column[0]], index.camera_sizes[there, column[0]]])
    _, first = np.unique(calibrations, axis=0, return_index=True)
    found = [
        coverage_of(
            [name],
            index.intrinsics[sample, column],
            index.mountings_of(sample, column),
            index.sizes_of(sample, column),
            student.images,
        )[0]
        for sample in there[first]
    ]
    return min(found, key=lambda coverage: np.nan_to_num(coverage.share, nan=-1.0))
