"""`bevdistill label`: a trained detector labels the scenes of a split that nobody annotated.

Scene by scene, on this machine or a cluster; then the tables of a new version are written in one step. Images and point
clouds are not copied. Scenes that are done are kept beside the output until then, so that an interrupted run goes on.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bevdistill_ros.core.files import atomic_folder, write_whole
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.text import aligned
from training.data.dataset import NuScenesDataset
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.index.reader import Tokens
from training.data.points import PointLayout
from training.data.tables import LIDAR, check_new_version, read_tables
from training.evaluate.detector import Detector
from training.label.annotations import Names, SceneLabels, rows_of
from training.label.records import FrameBoxes
from training.label.scene import annotated, dataset_of, detected, detector_of, points_in_labels, with_points
from training.label.thresholds import DEFAULT, ClassQuality, calibrated_thresholds, given_thresholds, quality_of
from training.label.tracker import TrackConfig, distinct, tracks_of
from training.parallel.spread import listed_errors, spread

REPORT, QUALITY = "labels.json", "quality.json"  # beside the tables: what made the labels, and how good they are
_FOLDERS = ("samples", "sweeps", "maps")
_ANYWHERE = ("processes", "ray", "progress", "device", "truth_version", "output_root")  # settings no label depends on


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What `bevdistill label` labels, and how."""

    checkpoint: str  # of the teacher; a student's checkpoint or bundle labels too
    root: Path  # of the database, the folder that holds samples/ and the tables
    version: str  # folder of its tables
    split: str  # whose scenes are labelled; all other annotations stay
    output_version: str  # folder for the new tables, which must not exist
    output_root: Path | None = None  # where that folder comes, with links to the data; null is root
    threshold: float = DEFAULT  # least score of a label
    thresholds: dict[str, float] = field(default_factory=dict)  # of classes that have one of their own, {car: 0.4}
    calibrate_split: str = ""  # annotated split, unknown to the teacher, on which thresholds are found instead
    precision: float | None = None  # share of right labels that they are to have there; null: the best F1 of each class
    min_points: int = 1  # LiDAR points of the key frame that a LiDAR detector's box must hold to be believed
    distinct: float = 0.5  # [m] of detections of a class whose centres are nearer, the best one stays
    track: TrackConfig | None = field(default_factory=TrackConfig)  # consistency over time; null: each frame alone
    replace: bool = False  # label frames again that are annotated
    truth_version: str = ""  # tables with annotations of the same scenes, to say how good the labels are
    lidar: str = LIDAR  # channel of the LiDAR
    points: PointLayout = field(default_factory=PointLayout)  # of the LiDAR files
    mmdet3d_config: str = ""  # configuration of the detector, where checkpoint is of mmdet3d
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>
    batch_size: int = 4  # frames at once
    processes: int = 1  # scenes at once on this machine
    ray: str = ""  # address of a Ray cluster that shares the files (host:6379, ray://host:10001, auto); empty: none
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        given_thresholds(self.threshold, self.thresholds)
        if self.precision is not None and not (self.calibrate_split and 0 < self.precision <= 1):
            raise ValueError(f"precision must be in (0, 1] and needs calibrate_split, but is {self.precision}")
        if self.batch_size < 1 or self.processes < 1 or min(self.distinct, self.min_points) < 0:
            raise ValueError(
                "batch_size and processes must be at least 1, distinct and min_points at least 0, but they are "
                f"{self.batch_size}, {self.processes}, {self.distinct} and {self.min_points}"
            )

    @property
    def data(self) -> DataConfig:
        """The database for a detector, with the split to label as its training split."""
        return DataConfig(
            root=self.root, version=self.version, train_split=self.split, lidar=self.lidar, points=self.points
        )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker must know to label a scene, besides its name."""

    config: LabelConfig
    thresholds: tuple[float, ...]
    origin: str


class _Memory:
    """Labels of the scenes that are done, in a hidden folder beside the output, until that is written.

    Args:
        target: The output.
        task: Other settings, thresholds or weights have another folder, and so have tables that have changed.
    """

    def __init__(self, target: Path, task: _Task) -> None:
        settings = {name: value for name, value in asdict(task.config).items() if name not in _ANYWHERE}
        tables = sorted((task.config.root / task.config.version).glob("*.json"))
        changed = [(table.name, table.stat().st_mtime_ns) for table in tables]
        words = json.dumps([settings, task.thresholds, task.origin, changed], default=str)
        self._target = target
        self._folder = target.parent / f".{target.name}.{hashlib.sha256(words.encode()).hexdigest()[:12]}.scenes"

    def labels_of(self, scene: str) -> SceneLabels | None:
        """What an earlier run found; None where there is nothing, or it is damaged."""
        try:
            content = json.loads(self._path(scene).read_text())
            return SceneLabels(**{**content, "samples": tuple(content["samples"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, labels: SceneLabels) -> None:
        """Keep the labels of a scene."""
        write_whole(self._path(labels.scene), json.dumps(asdict(labels)))

    def forget(self) -> None:
        """Remove all, also of runs with other settings that were never finished."""
        for folder in self._target.parent.glob(f".{glob.escape(self._target.name)}.*.scenes"):
            shutil.rmtree(folder, ignore_errors=True)

    def _path(self, scene: str) -> Path:
        return self._folder / f"{hashlib.sha256(scene.encode()).hexdigest()[:24]}.json"  # a name may hold anything


def run_label(config: LabelConfig) -> str:
    """Label; returns the closing text.

    Raises:
        ValueError: The detector or the data can't be read, the output exists, frames are annotated already, or no scene
            could be labelled.
    """
    target = _target(config)
    index = load_index(replace(config.data, num_sweeps=0))
    scenes = _scenes_of(config, index)
    _check_unlabelled(config, index)
    task = _Task(config=config, thresholds=tuple(_thresholds(config)), origin=_origin(config.checkpoint))
    memory = _Memory(target, task)
    done = {name: kept for name in scenes if (kept := memory.labels_of(name)) is not None}
    todo = [name for name in scenes if name not in done]
    outcomes = []
    with tqdm(desc="label", total=len(scenes), initial=len(done), unit="scene", disable=not config.progress) as bar:
        for outcome in spread(partial(label_scene, task), todo, processes=config.processes, ray=config.ray):
            outcomes.append(outcome)
            bar.update()
            if outcome.result is not None:
                done[outcome.item] = outcome.result
                memory.keep(outcome.result)
    if not done:
        raise ValueError(f"no scene was labelled; the first reason: {outcomes[0].error}")
    labels = [done[name] for name in scenes if name in done]
    _write(config, target, labels, task)
    memory.forget()
    parts = [
        _summary(config, target, labels),
        _quality(config, target, labels, task.thresholds),
        listed_errors(outcomes),
    ]
    return "\n".join(filter(None, parts))


def label_scene(task: _Task, scene: str) -> SceneLabels:
    """Rows of the labels of a scene.

    Raises:
        ValueError: Its data can't be read.
    """
    config, thresholds = task.config, np.array(task.thresholds)
    if config.processes > 1:  # which share the cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.processes))
    detector = detector_of(config.checkpoint, config.device, config.mmdet3d_config)
    dataset = dataset_of(detector, config.data, [scene])
    frames = _candidates(config, detector, dataset, progress=False)
    tracks = tracks_of(frames, thresholds, config.track)
    tables = read_tables(config.root, config.version, only=("category.json", "attribute.json"))
    return rows_of(
        tracks,
        scene=scene,
        samples=[frame.token for frame in frames],
        stamps_ns=[frame.stamp_ns for frame in frames],
        num_points=points_in_labels(dataset, tracks),
        names=Names(tables["category.json"], tables["attribute.json"]),
        origin=task.origin,
    )


def _target(config: LabelConfig) -> Path:
    root = config.output_root or config.root
    target = check_new_version(root, config.version, config.output_version)
    if config.output_root is not None and config.output_root.resolve() != config.root.resolve():
        foreign = [
            name for name in _FOLDERS if (root / name).exists() and not _links_to(root / name, config.root / name)
        ]
        if foreign:
            raise ValueError(f"{root} holds {foreign[0]} of another data set; choose another output_root")
    return target


def _links_to(path: Path, target: Path) -> bool:
    return path.is_symlink() and path.resolve() == target.resolve()


def _scenes_of(config: LabelConfig, index: NuScenesIndex) -> list[str]:
    numbers = dict.fromkeys(index.scenes[index.samples_of(config.split)].tolist())
    return [index.scene_names[number].decode() for number in numbers]


def _check_unlabelled(config: LabelConfig, index: NuScenesIndex) -> None:
    samples = index.samples_of(config.split)
    counts = (np.diff(index.box_offsets) + index.ignored_boxes)[samples]
    known = int(np.count_nonzero(counts))
    if known and not config.replace:
        raise ValueError(
            f"{known} of {len(samples)} frames of split '{config.split}' are annotated already; choose another split, "
            "or set replace to true to label them again"
        )


def _origin(checkpoint: str) -> str:
    """What the labels say of where they come from: the detector by name and content."""
    path = Path(checkpoint)
    file = path if path.is_file() else next(iter(sorted(path.glob("*.safetensors"))), None)
    digest = ""
    if file is not None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    return f"bevdistill label: {path.name} {digest}".strip()


def _thresholds(config: LabelConfig) -> np.ndarray:
    if not config.calibrate_split:
        return given_thresholds(config.threshold, config.thresholds)
    detector = detector_of(config.checkpoint, config.device, config.mmdet3d_config)
    data = replace(config.data, train_split=config.calibrate_split)
    dataset = detector.dataset(data, config.calibrate_split)
    truth = annotated(dataset.index, dataset.samples, detector.grid)
    if not any(len(frame.labels) for frame in truth):
        raise ValueError(f"calibrate_split '{config.calibrate_split}' has no annotations to calibrate with")
    found = _candidates(config, detector, dataset, progress=config.progress)
    return calibrated_thresholds(found, truth, config.precision)


def _candidates(
    config: LabelConfig, detector: Detector, dataset: NuScenesDataset, *, progress: bool
) -> list[FrameBoxes]:
    """Detections of any score that may become labels."""
    found = detected(detector, dataset, batch_size=config.batch_size, progress=progress)
    if detector.uses_lidar:
        found = with_points(dataset, found, config.min_points)
    return [distinct(frame, config.distinct) for frame in found]


def _write(config: LabelConfig, target: Path, labels: Sequence[SceneLabels], task: _Task) -> None:
    """Write the tables with the labels in the place of the split's annotations, and links to the data."""
    tables = read_tables(config.root, config.version)
    _put(tables, labels)
    tables.pop(QUALITY, None)  # of labels that the version had before
    tables[REPORT] = {
        "origin": task.origin,
        "thresholds": dict(zip(CLASS_NAMES, task.thresholds, strict=True)),
        "settings": json.loads(json.dumps(asdict(config), default=str)),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as folder:
        for name, content in tables.items():
            (folder / name).write_text(json.dumps(content, indent=1))
        for name in _FOLDERS:
            if (config.root / name).exists() and not (target.parent / name).exists():
                (target.parent / name).symlink_to((config.root / name).resolve())


def _put(tables: dict[str, Any], labels: Sequence[SceneLabels]) -> None:
    """Exchange the annotations of the labelled scenes' frames."""
    Names(tables["category.json"], tables["attribute.json"])  # adds what the labels name
    frames = {token for scene in labels for token in scene.samples}
    had_none = not tables["sample_annotation.json"]  # so that no frame needed a mark
    for sample in tables["sample.json"]:
        if sample["token"] in frames:
            sample.pop("annotated", None)
        elif had_none:
            sample["annotated"] = False
    kept = [row for row in tables["sample_annotation.json"] if row["sample_token"] not in frames]
    seen = {row["instance_token"] for row in kept}
    tables["instance.json"] = [row for row in tables["instance.json"] if row["token"] in seen]
    tables["sample_annotation.json"] = kept
    for scene in labels:
        tables["instance.json"] += scene.instances
        tables["sample_annotation.json"] += scene.annotations


def _summary(config: LabelConfig, target: Path, labels: Sequence[SceneLabels]) -> str:
    boxes = [row for scene in labels for row in scene.annotations]
    filled = sum(row["filled"] for row in boxes)
    objects, frames = (sum(map(len, rows)) for rows in zip(*((s.instances, s.samples) for s in labels), strict=True))
    return (
        f"{len(boxes)} labels ({filled} of them filled in) of {objects} objects in {frames} frames of {len(labels)} "
        "scenes\n"
        f"data set: {target.parent}, version {target.name}, with the splits of {config.version}"
    )


def _quality(config: LabelConfig, target: Path, labels: Sequence[SceneLabels], thresholds: Sequence[float]) -> str:
    """How good the labels are, where the truth is known; empty where it is not."""
    if not config.truth_version:
        return ""
    data = replace(config.data, num_sweeps=0)
    made = load_index(replace(data, root=target.parent, version=target.name))
    truth = load_index(replace(data, version=config.truth_version))
    grid = detector_of(config.checkpoint, config.device, config.mmdet3d_config).grid
    tokens = [token.encode() for scene in labels for token in scene.samples]
    found, real = (
        annotated(index, Tokens(index.tokens, "sample").rows(np.array(tokens)), grid) for index in (made, truth)
    )
    qualities = quality_of(found, real, np.array(thresholds))
    write_whole(
        target / QUALITY, json.dumps({name: asdict(entry) for name, entry in qualities.items()}, indent=1) + "\n"
    )
    return quality_table(qualities)


def quality_table(qualities: Mapping[str, ClassQuality]) -> str:
    """Precision and recall by class, as text."""
    total = ClassQuality(
        threshold=float("nan"),
        found=sum(entry.found for entry in qualities.values()),
        right=sum(entry.right for entry in qualities.values()),
        objects=sum(entry.objects for entry in qualities.values()),
    )
    rows = [
        (name, f"{entry.threshold:.2f}", entry.found, entry.objects, f"{entry.precision:.2f}", f"{entry.recall:.2f}")
        for name, entry in {**qualities, "all": total}.items()
    ]
    return aligned([("class", "threshold", "labels", "objects", "precision", "recall"), *rows]).replace("nan", "-")
