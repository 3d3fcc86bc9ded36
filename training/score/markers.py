"""What was found, missed and wrong at each key frame, as markers in a bag for Foxglove or RViz; no ROS is needed.

Each key frame is one visualization_msgs/MarkerArray on `/score/markers`, received and stamped at the key frame, in the
frame of the vehicle. Played beside the drive's own bag, its transforms place the boxes; alone, the vehicle's frame is
the fixed one. Namespaces can be switched off in the viewer:

| namespace | colour | box |
| --- | --- | --- |
| `tp` | green | a detection that hits an object |
| `fp` | orange | a detection that hits none |
| `fn` | blue | an object that no detection hits |

A detection hits as the nuScenes devkit decides it at 2 m between centres, best score first, each class by itself. Only
detections above the operating score of their class (see `operating_scores`) are drawn; a label shows class and score.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.nuscenes import NuScenes
from rosbags.rosbag2 import StoragePlugin

from bevdistill_ros.core.geometry import invert_rigid, transform_from
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.bag import messages
from training.bag.writer import bag_writer
from training.data.tables import LIDAR
from training.evaluate.metrics import Evaluated
from training.score.boxes import table_of
from training.score.by_class import ERROR_THRESHOLD
from training.score.frames import Frames
from training.score.matching import rows_taken

TOPIC = "/score/markers"
KIND = "visualization_msgs/msg/MarkerArray"
COLOURS: Mapping[str, tuple[float, float, float, float]] = {  # apart for the colour-blind too
    "tp": (0.0, 0.62, 0.45, 0.5),
    "fp": (0.9, 0.4, 0.0, 0.5),
    "fn": (0.0, 0.45, 0.8, 0.5),
}
LABEL_HEIGHT = 0.8  # [m]


def write_markers(
    path: Path, nusc: NuScenes, evaluated: Evaluated, frames: Frames, least: Mapping[str, float], frame_id: str
) -> Path:
    """Write a bag of markers.

    Args:
        path: The bag; it must not exist.
        nusc: The data set.
        evaluated: Boxes that the devkit counts.
        frames: Of the split.
        least: Least score by class of a detection that is drawn.
        frame_id: Frame of the vehicle.

    Raises:
        ValueError: `path` exists.
    """
    kinds = kinds_of(evaluated, frames, least)
    quality = messages.quality(depth=10)
    with bag_writer(path, StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(
            TOPIC, KIND, typestore=messages.standard_types(), offered_qos_profiles=[quality]
        )
        for number in np.argsort(frames.stamp_us, kind="stable"):
            stamp_ns = int(frames.stamp_us[number]) * 1000
            ego_from_global = _ego_from_global(nusc, frames.tokens[number])
            cubes = [
                cube
                for place, (kind, box) in enumerate(kinds[number])
                for cube in _cubes(kind, place, box, ego_from_global)
            ]
            content = messages.cube_markers(stamp_ns, frame_id, cubes)
            writer.write(connection, stamp_ns, messages.serialize(content, KIND))
    return path


def kinds_of(evaluated: Evaluated, frames: Frames, least: Mapping[str, float]) -> list[list[tuple[str, DetectionBox]]]:
    """Boxes of each frame, each with what it is: tp, fp or fn."""
    tables = [table_of(boxes, frames.tokens) for boxes in (evaluated.truth, evaluated.found)]
    truth, found = tables
    taken = rows_taken(truth, found)[:, ERROR_THRESHOLD]
    threshold = np.array([least[name] for name in CLASS_NAMES])
    drawn = found.score >= threshold[found.label]
    missed = np.ones(len(truth), dtype=bool)
    missed[taken[drawn & (taken >= 0)]] = False
    truth_boxes, found_boxes = (
        [box for token in frames.tokens for box in boxes[token]] for boxes in (evaluated.truth, evaluated.found)
    )
    kinds: list[list[tuple[str, DetectionBox]]] = [[] for _ in frames.tokens]
    for row in np.flatnonzero(drawn):
        kinds[found.frame[row]].append(("tp" if taken[row] >= 0 else "fp", found_boxes[row]))
    for row in np.flatnonzero(missed):
        kinds[truth.frame[row]].append(("fn", truth_boxes[row]))
    return kinds


def _cubes(kind: str, number: int, box: DetectionBox, ego_from_global: np.ndarray) -> Iterator[dict[str, Any]]:
    """The box, and its label above it."""
    pose = ego_from_global @ transform_from(np.array(box.rotation), np.array(box.translation, dtype=np.float64))
    width, length, height = box.size
    common = {"namespace": kind, "color": COLOURS[kind]}
    yield {**common, "id": 2 * number, "pose": pose, "size": (length, width, height)}
    raised = pose.copy()
    raised[2, 3] += height / 2 + LABEL_HEIGHT
    text = box.detection_name if kind == "fn" else f"{box.detection_name} {box.detection_score:.2f}"
    red, green, blue, _ = COLOURS[kind]
    size: Sequence[float] = (LABEL_HEIGHT, LABEL_HEIGHT, LABEL_HEIGHT)
    yield {**common, "id": 2 * number + 1, "pose": raised, "size": size, "color": (red, green, blue, 1.0), "text": text}


def _ego_from_global(nusc: NuScenes, token: str) -> np.ndarray:
    """(4, 4) [m] at the stamp of the key frame, that of its LiDAR."""
    record = nusc.get("sample_data", nusc.get("sample", token)["data"][LIDAR])
    pose = nusc.get("ego_pose", record["ego_pose_token"])
    return invert_rigid(torch.from_numpy(transform_from(pose["rotation"], pose["translation"]))).numpy()
