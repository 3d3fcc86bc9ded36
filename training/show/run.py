"""Pictures of a frame: camera images with boxes beside the bird's-eye view."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from bevdistill_ros.core.boxes import corners_bev
from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_COLOURS, CLASS_NAMES, Colour
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.wireframe import box_segments
from training.data.index.load import DataConfig
from training.data.sample import Sample, collate
from training.evaluate.detector import load_detector
from training.show.bev_map import TRUTH_COLOUR
from training.teacher.mmdet3d_config import Mmdet3dConfig

CAMERA_INCHES = 4.4  # width of a camera in the picture
TITLE_INCHES = 0.4  # height of a line of text
LEAST_INCHES = 5.0  # height of all cameras, so that the bird's-eye view is legible
CAMERA_ROWS: tuple[tuple[str, ...], ...] = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT"),  # as seen when looking back, so that neighbours lie side by side
)


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """What `bevdistill show` draws."""

    source: str  # bundle folder, or checkpoint of a teacher or student
    mmdet3d: Mmdet3dConfig = field(default_factory=Mmdet3dConfig)  # where source is a checkpoint of mmdet3d
    data: DataConfig = field(default_factory=DataConfig)
    split: str = ""  # empty takes data.val_split
    frames: int = 2  # pictures, spread evenly over the split
    score_threshold: float = 0.3  # least score of a detection that is drawn
    output: str = "runs/show"  # folder of the pictures
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, but is {self.frames}")


def run_show(config: ShowConfig) -> str:
    """Draw some frames of a split, each without memory of those before it; returns the closing text."""
    detector = load_detector(config.source, config.device, config.mmdet3d)
    split = config.split or config.data.val_split
    dataset = detector.dataset(config.data, split, for_pictures=True)
    chosen = np.linspace(0, len(dataset) - 1, min(config.frames, len(dataset))).round().astype(int)
    output = Path(config.output)
    paths = []
    for number in chosen:
        sample = dataset[int(number)]
        detections = detector.detect(collate([sample]))[0].above(config.score_threshold)
        figure = draw_frame(
            sample, detections, cameras=dataset.cameras, grid=detector.grid, title=f"{detector.name}: {split}, {number}"
        )
        paths.append(output / f"{split}_{number:04d}.png")
        with atomic_file(paths[-1]) as partial:
            figure.savefig(partial, format="png", dpi=150)
    return "\n".join(f"picture: {path}" for path in paths)


def draw_frame(sample: Sample, detections: Detections, *, cameras: Sequence[str], grid: BevGrid, title: str) -> Figure:
    """Cameras on the left, the bird's-eye view on the right; ground truth green, detections by class.

    Args:
        sample: The frame, with images and points.
        detections: What is drawn beside its ground truth.
        cameras: Names of the frame's cameras; those of nuScenes are placed by direction, others in this order.
        grid: Extent of the bird's-eye view.
        title: Of the picture.
    """
    panels = _panels(cameras)
    image_height, image_width = sample.cameras.images.shape[-2:]
    row_inches = CAMERA_INCHES * image_height / image_width + TITLE_INCHES
    height = max(len(panels) * row_inches, LEAST_INCHES) + 2 * TITLE_INCHES
    bev_inches = height - 2 * TITLE_INCHES  # about as high as the cameras together
    figure = Figure(figsize=(3 * CAMERA_INCHES + bev_inches, height), layout="constrained")
    figure.suptitle(f"{title}   (green: ground truth; other colours: detections by class, number = score)")
    places = figure.add_gridspec(len(panels), 4, width_ratios=[*3 * (CAMERA_INCHES,), bev_inches - TITLE_INCHES])
    for row, names in enumerate(panels):
        for column, name in enumerate(names):
            if name in cameras:
                axes = figure.add_subplot(places[row, column])
                draw_camera(axes, sample, detections, list(cameras).index(name), name)
    draw_bev(figure.add_subplot(places[:, 3]), sample, detections, grid)
    return figure


def _panels(cameras: Sequence[str]) -> list[Sequence[str]]:
    """Camera names in rows of three."""
    known = {name for row in CAMERA_ROWS for name in row}
    others = [name for name in cameras if name not in known]
    rows: list[Sequence[str]] = [row for row in CAMERA_ROWS if set(row) & set(cameras)]
    return rows + [others[start : start + 3] for start in range(0, len(others), 3)]


def draw_camera(axes: Axes, sample: Sample, detections: Detections, camera: int, name: str) -> None:
    """One camera image with the boxes that it sees."""
    image = sample.cameras.images[0, camera].permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    projection = sample.cameras.image_from_ego[0, camera].double()
    axes.imshow(image)
    for boxes, colours in (
        (sample.boxes, [TRUTH_COLOUR] * len(sample.boxes)),
        (detections.boxes, _colours(detections)),
    ):
        for segments, colour in zip(box_segments(boxes, projection, height, width), colours, strict=True):
            axes.add_collection(LineCollection(list(segments.numpy()), colors=colour, linewidths=0.9))
    axes.set(title=name, xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])


def draw_bev(axes: Axes, sample: Sample, detections: Detections, grid: BevGrid) -> None:
    """LiDAR points, ground truth and detections from above; x (ahead) points up, y (left) points left."""
    points = sample.points[sample.points[:, 4] < 0.01]
    axes.scatter(points[:, 1], points[:, 0], s=0.3, c="#9aa0a6", linewidths=0)
    _draw_outlines(axes, sample.boxes, [TRUTH_COLOUR] * len(sample.boxes), 1.8)
    _draw_outlines(axes, detections.boxes, _colours(detections), 1.1)
    _write_scores(axes, detections)
    axes.plot([-0.9, 0.9, 0.9, -0.9, -0.9], [-1, -1, 3.5, 3.5, -1], color="black", linewidth=1)
    axes.set(xlim=(grid.y_max, grid.y_min), ylim=(grid.x_min, grid.x_max), aspect="equal")
    axes.set(xlabel="y, left of the ego [m]", ylabel="x, ahead of the ego [m]", title="bird's-eye view")
    axes.grid(alpha=0.25)
    present = sorted({int(label) for label in detections.labels})
    handles = [
        axes.plot([], [], color=CLASS_COLOURS[CLASS_NAMES[label]], label=CLASS_NAMES[label])[0] for label in present
    ]
    if handles:
        axes.legend(handles=handles, fontsize=6, loc="upper right")


def _write_scores(axes: Axes, detections: Detections) -> None:
    """The score of each detection beside its box, on the side away from the ego."""
    halo = [withStroke(linewidth=1.5, foreground="white")]
    corners = corners_bev(detections.boxes)
    for outline, score, colour in zip(corners, detections.scores, _colours(detections), strict=True):
        along, across = outline.mean(dim=0).tolist()
        is_left = across > 0
        edge = outline[:, 1].max() if is_left else outline[:, 1].min()
        axes.annotate(
            f"{score:.2f}",
            (float(edge), along),
            (-2 if is_left else 2, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize=5,
            color=colour,
            path_effects=halo,
            annotation_clip=True,
        )


def _draw_outlines(axes: Axes, boxes: Tensor, colours: Sequence[str | Colour], width: float) -> None:
    """Rectangles with a line from the centre to the middle of the front."""
    for corners, colour in zip(corners_bev(boxes), colours, strict=True):
        closed = np.vstack([corners.numpy(), corners[:1].numpy()])
        front, centre = corners[[0, 3]].mean(dim=0).numpy(), corners.mean(dim=0).numpy()
        axes.plot(closed[:, 1], closed[:, 0], color=colour, linewidth=width)
        axes.plot([centre[1], front[1]], [centre[0], front[0]], color=colour, linewidth=width)


def _colours(detections: Detections) -> list[Colour]:
    return [CLASS_COLOURS[CLASS_NAMES[int(label)]] for label in detections.labels]
