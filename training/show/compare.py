"""Two detectors on the same frames: who finds which object, and the frame where the second finds most that the first
misses, as a picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.plain import check_at_least
from bevdistill_ros.core.records import Detections
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig
from training.data.sample import Sample, collate
from training.data.visibility import boxes_in_view
from training.evaluate.detector import Detector, load_detector
from training.show.bev_map import draw_maps
from training.show.run import draw_bev, draw_camera

_MARK = "#ff2bd6"  # of objects that the second detector alone finds


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What `bevdistill compare` compares."""

    first: str  # bundle folder, or checkpoint of a student
    second: str  # the same, of the one that should be better
    teacher: str = ""  # checkpoint of a LiDAR teacher, whose map is drawn beside theirs; empty leaves it out
    names: tuple[str, str] = ("first", "second")  # in the picture and in what is printed
    data: DataConfig = field(default_factory=DataConfig)
    split: str = ""  # empty takes data.val_split
    score_threshold: float = 0.3  # least score of a detection that counts
    distance: float = 2.0  # [m] from an object's centre within which a detection of its class finds it
    output: Path = Path("runs/compare.png")  # the picture
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        check_at_least(self, "compare", 0, "score_threshold", "distance")


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """What both found in a frame."""

    number: int  # in the split
    first: Tensor  # (M,) bool, which objects of the ground truth the first finds
    second: Tensor

    @property
    def surplus(self) -> int:
        """Objects that the second alone finds, less those that the first alone finds."""
        return int((self.second & ~self.first).sum()) - int((self.first & ~self.second).sum())


def run_compare(config: CompareConfig) -> str:
    """Compare on a split; returns the closing text.

    Raises:
        ValueError: A model or the data can't be read, one of the two sees by LiDAR or needs memory, or no object is
            there to find.
    """
    detectors = [_student(source, config.device) for source in (config.first, config.second)]
    split = config.split or config.data.val_split
    datasets = [detector.dataset(config.data, split, for_pictures=True) for detector in detectors]
    frames = [
        _compared(config, detectors, datasets, number)
        for number in tqdm(range(len(datasets[0])), desc="compare", unit="frame", disable=not config.progress)
    ]
    if not any(len(frame.first) for frame in frames):
        raise ValueError(f"split {split} has no annotated object that a sensor sees, so there is none to find")
    chosen = max(frames, key=lambda frame: frame.surplus)  # the first of several
    with atomic_file(config.output) as partial:
        _drawn(config, detectors, datasets, chosen).savefig(partial, format="png", dpi=100)
    return f"{_totals(config, frames)}\npicture: {config.output} (frame {chosen.number} of {split})"


def _student(source: str, device: str) -> Detector:
    detector = load_detector(source, device)
    if detector.uses_lidar or detector.is_temporal:
        kind = "sees by LiDAR" if detector.uses_lidar else "remembers earlier frames"
        raise ValueError(f"{source} {kind}; compare takes two camera students without memory")
    return detector


def _compared(
    config: CompareConfig, detectors: Sequence[Detector], datasets: Sequence[NuScenesDataset], number: int
) -> _Frame:
    found = []
    for detector, dataset in zip(detectors, datasets, strict=True):
        sample = dataset[number]
        detections = detector.detect(collate([sample]))[0].above(config.score_threshold)
        boxes, labels = _objects(sample, detector.grid)
        found.append(found_objects(boxes, labels, detections, distance=config.distance))
    return _Frame(number=number, first=found[0], second=found[1])


def _objects(sample: Sample, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Boxes and labels of a frame's objects on the grid that hold at least a LiDAR point, as the devkit counts them."""
    seen = (sample.num_lidar_points > 0) & grid.contains(sample.boxes[:, :2])
    return sample.boxes[seen], sample.labels[seen]


def found_objects(boxes: Tensor, labels: Tensor, detections: Detections, *, distance: float) -> Tensor:
    """Which objects are found: detections take, best first, the nearest object of their class that is still free.

    Args:
        boxes: (M, 9) of the ground truth.
        labels: (M,) its classes.
        detections: In the same frame.
        distance: [m] between centres in BEV at which a detection still finds an object.

    Returns:
        (M,) bool.
    """
    found = torch.zeros(len(boxes), dtype=torch.bool)
    for number in detections.scores.argsort(descending=True, stable=True).tolist():
        away = (boxes[:, :2] - detections.boxes[number, :2]).norm(dim=-1)
        away = torch.where(found | (labels != detections.labels[number]), torch.inf, away)
        if len(away) and away.min() <= distance:
            found[away.argmin()] = True
    return found


def _totals(config: CompareConfig, frames: Sequence[_Frame]) -> str:
    """How many objects of all frames who finds."""
    counts = Counter(pair for frame in frames for pair in zip(frame.first.tolist(), frame.second.tolist(), strict=True))
    first, second = config.names
    return (
        f"{sum(counts.values())} objects in {len(frames)} frames: both students find {counts[True, True]}, {first} "
        f"alone {counts[True, False]}, {second} alone {counts[False, True]}, neither {counts[False, False]}"
    )


def _drawn(
    config: CompareConfig, detectors: Sequence[Detector], datasets: Sequence[NuScenesDataset], frame: _Frame
) -> Figure:
    """The maps of both and of the teacher above; below, what they find, and the camera that shows most of the gain."""
    samples = [dataset[frame.number] for dataset in datasets]
    grid = detectors[0].grid
    boxes = _objects(samples[0], grid)[0]
    gained = boxes[frame.second & ~frame.first]
    figure = Figure(figsize=(16, 11), layout="constrained")
    figure.suptitle(
        f"frame {frame.number}, where {config.names[1]} is ahead most: it finds {len(gained)} objects (crosses) that "
        f"{config.names[0]} misses, and misses {len(gained) - frame.surplus} that it finds; green: ground truth"
    )
    places = figure.subplots(2, 3)
    draw_maps(places[0][: 2 + bool(config.teacher)], _maps(config, detectors, datasets, frame.number), boxes, grid)
    if not config.teacher:
        places[0][2].axis("off")
    for place, name, detector, sample in zip(places[1], config.names, detectors, samples, strict=False):
        detections = detector.detect(collate([sample]))[0].above(config.score_threshold)
        draw_bev(place, sample, detections, grid)
        place.plot(gained[:, 1], gained[:, 0], "x", color=_MARK, markersize=9, markeredgewidth=2)
        place.set_title(f"{name}: detections")
    _draw_best_camera(places[1][2], config, detectors[1], samples[1], datasets[1].cameras, gained)
    return figure


def _maps(
    config: CompareConfig, detectors: Sequence[Detector], datasets: Sequence[NuScenesDataset], number: int
) -> dict[str, Tensor]:
    """BEV maps (C, rows, cols) of a frame by their titles."""
    named = [*zip(config.names, detectors, datasets, strict=True)]
    if config.teacher:
        teacher = load_detector(config.teacher, config.device)
        named.append(("LiDAR teacher", teacher, teacher.dataset(config.data, config.split or config.data.val_split)))
    return {f"BEV map, {name}": detector.bev(collate([dataset[number]]))[0] for name, detector, dataset in named}


def _draw_best_camera(
    axes: Axes, config: CompareConfig, detector: Detector, sample: Sample, cameras: Sequence[str], gained: Tensor
) -> None:
    """The camera that shows most of the objects, with the detections."""
    rig, (height, width) = sample.cameras, sample.cameras.images.shape[-2:]
    views = zip(rig.image_from_ego[0].split(1), rig.valid[0].split(1), strict=True)
    shown = [int(boxes_in_view(gained, *view, (height, width)).sum()) for view in views]
    best = max(range(len(cameras)), key=lambda camera: shown[camera])
    detections = detector.detect(collate([sample]))[0].above(config.score_threshold)
    draw_camera(axes, sample, detections, best, cameras[best])
    axes.set_title(f"{config.names[1]}: {cameras[best]}, {shown[best]} of them")
