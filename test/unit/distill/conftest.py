"""A student, a teacher and ground truth of random numbers, on a grid with more columns than rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import encode_boxes
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.records import CameraInput, SetPrediction, StudentOutput
from training.data.sample import Batch
from training.distill.base import DistillShapes
from training.teacher.output import TeacherOutput

GRID = BevGrid(x_min=-8.0, x_max=8.0, y_min=-6.4, y_max=6.4, rows=16, cols=20)  # 0.8 m cells
CHANNELS = 6  # of both maps and of all query features
NINE_CELLS = BevGrid(x_min=-1.5, x_max=1.5, y_min=-1.5, y_max=1.5, rows=3, cols=3)  # centres at -1, 0 and 1 m


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a distiller is called with."""

    student: StudentOutput
    teacher: TeacherOutput
    batch: Batch

    def item(self, index: int) -> "Scene":
        """One item of the batch as a batch of its own."""
        one = slice(index, index + 1)

        def queries(predictions: SetPrediction) -> SetPrediction:
            return SetPrediction(
                logits=predictions.logits[:, one],
                codes=predictions.codes[:, one],
                features=predictions.features[:, one],
            )

        teacher = self.teacher
        assert teacher.encoded is not None
        assert teacher.predictions is not None
        return Scene(
            student=StudentOutput(bev=self.student.bev[one], predictions=queries(self.student.predictions)),
            teacher=TeacherOutput(
                finest=teacher.finest[one],
                encoded=teacher.encoded[one],
                grid=teacher.grid,
                predictions=queries(teacher.predictions),
            ),
            batch=batch_of([self.batch.boxes[index]], [self.batch.labels[index]]),
        )


def batch_of(boxes: list[Tensor], labels: list[Tensor]) -> Batch:
    """A batch of ground truth without sensors."""
    count = len(boxes)
    cameras = CameraInput(
        images=torch.zeros(count, 0, 3, 1, 1, dtype=torch.uint8),
        image_from_ego=torch.zeros(count, 0, 4, 4),
        valid=torch.zeros(count, 0, dtype=torch.bool),
        global_from_ego=torch.eye(4, dtype=torch.float64).expand(count, 4, 4),
    )
    return Batch(
        tokens=tuple(str(index) for index in range(count)),
        stamps_ns=(0,) * count,
        cameras=cameras,
        history=(),
        history_present=torch.zeros(0, count, dtype=torch.bool),
        points=tuple(torch.zeros(0, 5) for _ in boxes),
        ego_from_lidar=torch.eye(4, dtype=torch.float64).expand(count, 4, 4),
        boxes=tuple(boxes),
        labels=tuple(labels),
        num_lidar_points=tuple(torch.ones(len(item), dtype=torch.int64) for item in boxes),
        box_weights=tuple(torch.ones(len(item)) for item in boxes),
        annotated=torch.ones(count, dtype=torch.bool),
    )


def _boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes (count, 9) whose centres lie in the middle of the grid."""
    unit = torch.rand(count, 9, generator=generator)
    low = torch.tensor([-6.0, -5.0, 0.0, 1.0, 0.8, 1.0, -3.1, -2.0, -2.0])
    high = torch.tensor([6.0, 5.0, 2.0, 4.0, 2.0, 2.0, 3.1, 2.0, 2.0])
    return low + unit * (high - low)


def _queries(
    layers: int, count: int, truth: list[Tensor], labels: list[Tensor], generator: torch.Generator
) -> SetPrediction:
    """Random queries, the first of which lie near the ground truth."""
    batch = len(truth)
    boxes = _boxes(layers * batch * count, generator).view(layers, batch, count, 9)
    logits = torch.randn(layers, batch, count, 10, generator=generator)
    for item, (box, label) in enumerate(zip(truth, labels, strict=True)):
        boxes[:, item, : len(box)] = box + 0.1 * torch.rand(layers, len(box), 9, generator=generator)
        logits[:, item, torch.arange(len(box)), label] += 2.0
    return SetPrediction(
        logits=logits.requires_grad_(),
        codes=encode_boxes(boxes).requires_grad_(),
        features=torch.randn(layers, batch, count, CHANNELS, generator=generator).requires_grad_(),
    )


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    """Makes scenes: `make_scene(num_boxes=(3, 2))` has two items, of 3 and of 2 boxes."""

    def make(num_boxes: tuple[int, ...] = (3, 2), *, layers: int = 2, queries: int = 9, seed: int = 0) -> Scene:
        generator = torch.Generator().manual_seed(seed)
        batch = len(num_boxes)
        shape = (batch, CHANNELS, GRID.rows, GRID.cols)
        boxes = [_boxes(count, generator) for count in num_boxes]
        labels = [torch.randint(0, 10, (count,), generator=generator) for count in num_boxes]
        return Scene(
            student=StudentOutput(
                bev=torch.randn(shape, generator=generator).requires_grad_(),
                predictions=_queries(layers, queries, boxes, labels, generator),
            ),
            teacher=TeacherOutput(
                finest=torch.randn(shape, generator=generator).requires_grad_(),
                encoded=torch.randn(shape, generator=generator).requires_grad_(),
                grid=GRID,
                predictions=_queries(2, 7, boxes, labels, generator),
            ),
            batch=batch_of(boxes, labels),
        )

    return make


@pytest.fixture
def make_nine_cells(make_scene: Callable[..., Scene]) -> Callable[..., Scene]:
    """Makes scenes of nine cells by hand: two maps (C, 3, 3), and a box on the middle cell that heads along x."""

    def make(student_bev: Tensor, teacher_bev: Tensor, *, length: float = 2.0, width: float = 2.0) -> Scene:
        scene = make_scene((1,))
        box = torch.tensor([[0.0, 0.0, 0.0, length, width, 1.0, 0.0, 0.0, 0.0]])
        return Scene(
            student=replace(scene.student, bev=student_bev[None]),
            teacher=replace(scene.teacher, encoded=teacher_bev[None], grid=NINE_CELLS),
            batch=batch_of([box], [torch.zeros(1, dtype=torch.int64)]),
        )

    return make


@pytest.fixture
def make_batch() -> Callable[[list[Tensor], list[Tensor]], Batch]:
    """Makes a batch of ground truth without sensors."""
    return batch_of


@pytest.fixture
def shapes_of() -> Callable[..., DistillShapes]:
    """Makes what a distiller knows of two models of as many channels everywhere."""

    def make(grid: BevGrid, channels: int, decoder: SetDecoder | None = None) -> DistillShapes:
        sizes = dict.fromkeys(
            ("student_channels", "teacher_channels", "student_feature_dim", "teacher_feature_dim"), channels
        )
        return DistillShapes(grid=grid, **sizes, teacher_decoder=decoder)

    return make


@pytest.fixture
def shapes(shapes_of: Callable[..., DistillShapes]) -> DistillShapes:
    """Those of the scenes."""
    return shapes_of(GRID, CHANNELS)


@pytest.fixture
def grid() -> BevGrid:
    """The grid of the scenes."""
    return GRID


@pytest.fixture
def nine_cells() -> BevGrid:
    """The grid of the scenes of nine cells."""
    return NINE_CELLS


@pytest.fixture
def teacher_decoder() -> SetDecoder:
    """A decoder on two maps of the scenes' channels, as many queries as the scenes' teacher, random weights."""
    torch.manual_seed(0)
    decoder = SetDecoder(
        embed_dim=CHANNELS, num_heads=2, num_layers=2, num_queries=7, num_points=2, num_levels=2, grid=GRID,
        feedforward_dim=8, dropout=0.0, query_selection="learned",
    )  # fmt: skip
    for parameter in decoder.parameters():  # also those that start at zero
        torch.nn.init.normal_(parameter, std=0.5)
    return decoder


@pytest.fixture
def channels() -> int:
    """Channels of both maps of the scenes, and size of their query features."""
    return CHANNELS
