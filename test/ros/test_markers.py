"""Shapes for a viewer, and the overlay picture; without ROS."""

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_COLOURS, CLASS_NAMES
from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.node.markers import Lifetime, shapes_of
from bevdistill_ros.node.overlay import draw_bev, draw_overlay, encode_jpeg

SECOND = 1_000_000_000
GROUND = 24


def detections(*boxes: list[float], label: int = 0) -> Detections:
    return Detections(
        stamp_ns=0,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 9),
        scores=torch.full((len(boxes),), 0.5),
        labels=torch.full((len(boxes),), label, dtype=torch.int64),
    )


def frame(valid: bool = True) -> CameraFrame:
    """One camera that looks ahead from 1.5 m above the ground; its image is black."""
    pose = torch.tensor(
        [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.5], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
    )
    matrix = torch.tensor([[100.0, 0.0, 99.5], [0.0, 100.0, 49.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rig = CameraRig(names=("FRONT",), intrinsics=matrix[None], ego_from_camera=pose[None], image_size=(100, 200))
    return CameraFrame(
        stamp_ns=0,
        images=torch.zeros(1, 3, 100, 200, dtype=torch.uint8),
        rig=rig,
        global_from_ego=torch.eye(4, dtype=torch.float64),
        valid=torch.tensor([valid]),
    )


def test_every_class_has_its_colour() -> None:
    assert set(CLASS_COLOURS) == set(CLASS_NAMES)
    assert len(set(CLASS_COLOURS.values())) == len(CLASS_NAMES)


def test_shapes_of_a_moving_and_a_standing_object() -> None:
    shapes = shapes_of(detections([10, 5, 1, 4, 2, 1.5, 0.3, 0, -3], [1, 2, 3, 1, 1, 1, 0, 0.1, 0]))
    assert [(shape.namespace, shape.number) for shape in shapes] == [
        ("boxes", 0),
        ("labels", 0),
        ("velocities", 0),
        ("boxes", 1),
        ("labels", 1),
    ]
    box, label, arrow = shapes[:3]
    assert (box.centre, box.size) == ((10.0, 5.0, 1.0), (4.0, 2.0, 1.5))
    assert box.yaw == pytest.approx(0.3)
    assert label.text == "car 0.50"
    assert label.centre[2] > 1.75
    assert (arrow.yaw, arrow.size[0]) == (pytest.approx(-math.pi / 2), 3.0)


def test_no_shapes_without_detections() -> None:
    assert shapes_of(detections()) == []


def test_lifetime_is_one_and_a_half_periods() -> None:
    lifetime = Lifetime()
    assert lifetime.after(0) == 0.75
    for step in range(1, 5):
        last = lifetime.after(step * SECOND // 10)
    assert last == pytest.approx(0.15)
    # A clock that goes back is no period.
    assert lifetime.after(0) == pytest.approx(0.15)


def test_lifetime_is_bounded() -> None:
    lifetime = Lifetime()
    lifetime.after(0)
    assert lifetime.after(100 * SECOND) == 2.0


def coloured(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pixels of a car's colour."""
    red, green, blue = (round(255 * value) for value in CLASS_COLOURS["car"])
    near = np.abs(picture.astype(int) - [blue, green, red]).max(axis=2) < 40
    return np.nonzero(near)


def test_box_is_drawn_where_it_projects_to() -> None:
    # Front face at 9 m ahead: 2 m wide, 1 m high, its middle at the camera's height and 1 m to the left.
    found = detections([10, 1, 1.5, 2, 2, 1, 0, 0, 0])
    picture = draw_overlay(frame(), found, BevGrid(rows=8, cols=8), cell_width=200)
    rows, cols = coloured(picture[:100, :200])
    assert cols.min() == pytest.approx(99.5 - 2 * 100 / 9, abs=1.5)
    assert cols.max() == pytest.approx(99.5, abs=1.5)
    assert rows.min() == pytest.approx(49.5 - 0.5 * 100 / 9, abs=1.5)
    assert rows.max() == pytest.approx(49.5 + 0.5 * 100 / 9, abs=1.5)


def test_box_behind_the_camera_is_not_drawn() -> None:
    picture = draw_overlay(
        frame(), detections([-10, 0, 1.5, 2, 2, 1, 0, 0, 0]), BevGrid(rows=8, cols=8), cell_width=200
    )
    assert len(coloured(picture[:100, :200])[0]) == 0


def test_box_around_the_camera_is_cut_not_a_crash() -> None:
    draw_overlay(frame(), detections([0, 0, 1.5, 8, 8, 4, 0.2, 0, 0]), BevGrid(rows=8, cols=8), cell_width=200)


def test_view_from_above_has_x_up_and_y_to_the_left() -> None:
    grid = BevGrid(x_min=-50, x_max=50, y_min=-50, y_max=50, rows=8, cols=8)
    rows, cols = coloured(draw_bev(detections([30, 0, 0, 4, 2, 1, 0, 0, 0]), grid, size=500))
    assert rows.mean() == pytest.approx(250 - 150, abs=5)
    assert cols.mean() == pytest.approx(250, abs=5)
    assert rows.max() - rows.min() > cols.max() - cols.min()
    rows, cols = coloured(draw_bev(detections([0, 30, 0, 4, 2, 1, 0, 0, 0]), grid, size=500))
    assert rows.mean() == pytest.approx(250, abs=5)
    assert cols.mean() == pytest.approx(250 - 150, abs=5)


def test_overlay_leaves_its_inputs_alone_and_is_a_jpeg() -> None:
    look = frame(valid=False)
    picture = draw_overlay(look, detections([10, 1, 1.5, 2, 2, 1, 0, 0, 0]), BevGrid(rows=8, cols=8))
    assert picture.dtype == np.uint8
    assert int(look.images.max()) == 0
    content = encode_jpeg(picture)
    assert content.startswith(b"\xff\xd8")
    assert content.endswith(b"\xff\xd9")
