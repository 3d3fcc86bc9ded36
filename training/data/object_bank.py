"""The LiDAR points of all objects of a split, and pasting some of them into other samples (SECOND, Sensors 2018).

It multiplies what is rare, for the training of a LiDAR teacher alone: no camera sees a pasted object.

The bank is made once and kept beside the index: its points stay on disk and are mapped into memory, as all of nuScenes
holds some 10 GB of them.
"""

import logging
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bevdistill_ros.core.boxes import BOX_SIZE, iou_bev, points_in_boxes
from bevdistill_ros.core.files import atomic_folder
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.data.dataset import NuScenesDataset
from training.data.index.cache import cache_path, one_at_a_time
from training.data.index.load import DataConfig
from training.data.sample import Sample

POINT_SIZE = 5  # [x y z intensity lag], x y z from the centre of the box, in the directions of the ego frame
MIN_POINTS = 5  # objects that hold fewer are not worth pasting
_POINTS, _OBJECTS = "points.bin", "objects.npz"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PasteConfig:
    """Up to how many objects of a class a sample is filled; the defaults are CBGS's (arXiv 1908.09492)."""

    objects: dict[str, int] = field(  # by class; classes that are left out get none
        default_factory=lambda: {
            "car": 2,
            "truck": 3,
            "construction_vehicle": 7,
            "bus": 4,
            "trailer": 6,
            "barrier": 2,
            "motorcycle": 6,
            "bicycle": 6,
            "pedestrian": 2,
            "traffic_cone": 2,
        }
    )

    def __post_init__(self) -> None:
        for name, count in self.objects.items():
            if name not in CLASS_NAMES:
                raise ValueError(f"augment.paste.objects has no class '{name}'; classes are {', '.join(CLASS_NAMES)}")
            if count < 0:
                raise ValueError(f"augment.paste.objects.{name} must be at least 0, but is {count}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectBank:
    """Objects and their points; P points of K objects."""

    points: np.ndarray  # (P, 5) float32, see POINT_SIZE
    offsets: np.ndarray  # (K + 1,) int64 into the points
    boxes: np.ndarray  # (K, 9) float32, core.boxes, in the ego frame of the sample that the object is from
    labels: np.ndarray  # (K,) int64

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, folder: Path, dataset: NuScenesDataset) -> Self:
        """Map the bank in a folder; where there is none it is made, by one process while the others wait.

        Args:
            folder: Of the bank.
            dataset: The samples to take objects from, not augmented.

        Raises:
            ValueError: The bank is damaged.
        """
        with one_at_a_time(folder):
            if not folder.is_dir():
                _write(folder, dataset)
        try:
            with np.load(folder / _OBJECTS, allow_pickle=False) as stored:
                objects = {name: stored[name] for name in ("offsets", "boxes", "labels")}
            shape = (int(objects["offsets"][-1]), POINT_SIZE)
            if (folder / _POINTS).stat().st_size != 4 * shape[0] * shape[1]:
                raise ValueError(f"{_POINTS} is cut off")
            # Nothing can't be mapped.
            points = np.memmap(folder / _POINTS, np.float32, "r", shape=shape) if shape[0] else np.zeros(shape)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"the objects in {folder} are damaged ({error}); remove the folder") from error
        return cls(points=points, **objects)

    def points_of(self, number: int) -> Tensor:
        """Points (P, 5) [x y z intensity lag] of an object in the ego frame, at its own place."""
        points = torch.tensor(self.points[self.offsets[number] : self.offsets[number + 1]])
        points[:, :3] += torch.tensor(self.boxes[number, :3])
        return points


def bank_folder(data: DataConfig) -> Path:
    """Where the objects of the training split of a database are kept."""
    facts = (data.lidar, str(data.points))
    index = cache_path(Path(data.root), data.version, data.num_sweeps, data.cache_dir, *facts)
    return index.with_name(f"objects-{data.train_split}-{index.stem.removeprefix('index-')}")


class PasteObjects:
    """Fill a sample up with objects of other samples, each where it was seen, if nothing is there.

    Points of the sample inside a pasted box are taken out: the object would hide them.

    Args:
        bank: Where objects come from.
        objects: Up to how many of each class.
    """

    def __init__(self, bank: ObjectBank, objects: Mapping[str, int]) -> None:
        self.bank = bank
        self._wanted = {CLASS_NAMES.index(name): count for name, count in objects.items()}
        self._members = {label: np.flatnonzero(bank.labels == label) for label in self._wanted}

    def __call__(self, sample: Sample) -> Sample:
        chosen = self._drawn(sample.labels)
        chosen = chosen[without_overlap(torch.tensor(self.bank.boxes[chosen]), sample.boxes).numpy()]
        if not len(chosen):
            return sample
        boxes = torch.tensor(self.bank.boxes[chosen])
        clouds = [self.bank.points_of(int(number)) for number in chosen]
        uncovered = ~points_in_boxes(sample.points[:, :3], boxes).any(dim=0)
        return replace(
            sample,
            points=torch.cat([sample.points[uncovered], *clouds]),
            boxes=torch.cat([sample.boxes, boxes]),
            labels=torch.cat([sample.labels, torch.tensor(self.bank.labels[chosen])]),
            num_lidar_points=torch.cat([sample.num_lidar_points, torch.tensor([len(cloud) for cloud in clouds])]),
            box_weights=torch.cat([sample.box_weights, sample.box_weights.new_ones(len(clouds))]),
        )

    def _drawn(self, present: Tensor) -> np.ndarray:
        """Objects (N,) int64 to try, at random: as many of each class as are missing."""
        drawn = [np.zeros(0, dtype=np.int64)]
        for label, wanted in self._wanted.items():
            members = self._members[label]
            missing = min(wanted - int((present == label).sum()), len(members))
            if missing > 0:
                drawn.append(members[torch.randint(len(members), (missing,)).numpy()])
        return np.concatenate(drawn)


def without_overlap(candidates: Tensor, present: Tensor) -> Tensor:
    """Which of boxes (N, 9), in turn, touch neither boxes (M, 9) nor one taken before, seen from above: bool (N,)."""
    others = torch.cat([present, candidates])
    count, total = len(candidates), len(others)
    pairs = iou_bev(candidates.repeat_interleave(total, dim=0), others.repeat(count, 1))
    touching = (pairs > 0).reshape(count, total)
    there = torch.cat([torch.ones(len(present), dtype=torch.bool), torch.zeros(count, dtype=torch.bool)])
    for number in range(count):
        there[len(present) + number] = not bool((touching[number] & there).any())
    return there[len(present) :]


def objects_in(dataset: NuScenesDataset) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Box (9,), label, and points (P, 5) from the box centre, of every object with enough points."""
    for position in tqdm(range(len(dataset)), desc="Collecting objects", disable=None):
        sample = dataset[position]
        inside = points_in_boxes(sample.points[:, :3], sample.boxes)
        for box, label, mask in zip(sample.boxes, sample.labels.tolist(), inside, strict=True):
            points = sample.points[mask]
            if len(points) >= MIN_POINTS:
                points[:, :3] -= box[:3]
                yield box, label, points


def _write(folder: Path, dataset: NuScenesDataset) -> None:
    """Write a bank in one step, so that a reader or an interruption never meets half of one; points pass through."""
    boxes, labels, offsets = [np.zeros((0, BOX_SIZE), dtype=np.float32)], [], [0]
    with atomic_folder(folder) as partial:
        with (partial / _POINTS).open("wb") as file:
            for box, label, points in objects_in(dataset):
                file.write(points.numpy().astype(np.float32).tobytes())
                boxes.append(box.numpy()[None])
                labels.append(label)
                offsets.append(offsets[-1] + len(points))
        np.savez(
            partial / _OBJECTS,
            boxes=np.concatenate(boxes),
            labels=np.array(labels, dtype=np.int64),
            offsets=np.array(offsets, dtype=np.int64),
        )
    _LOG.info("%d objects with %d points are in %s", len(labels), offsets[-1], folder)
