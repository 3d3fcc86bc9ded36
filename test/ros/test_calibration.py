"""Intrinsics, lens distortion, rig files, and likeness to the rig of training; without ROS."""

import math
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.rig_file import load_rig
from bevdistill_ros.node.rig.calibration import Calibration, calibrations_of
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.rig.mountings import RigMountings
from bevdistill_ros.node.rig.rectifier import Rectifier
from bevdistill_ros.node.rig.training_rig import differences_from_training

MATRIX = np.array([[100.0, 0.0, 79.5], [0.0, 100.0, 44.5], [0.0, 0.0, 1.0]])
SIZE = (90, 160)


def turned(degrees: float) -> torch.Tensor:
    """ego_from_camera of an optical frame that looks `degrees` to the left of ahead."""
    angle = np.deg2rad(degrees)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor(
        [[np.sin(angle), 0.0, np.cos(angle)], [-np.cos(angle), 0.0, np.sin(angle)], [0.0, -1.0, 0.0]]
    )
    return pose


def two_cameras() -> CameraRig:
    return CameraRig(
        names=("LEFT", "RIGHT"),
        intrinsics=torch.from_numpy(np.stack([MATRIX, MATRIX])),
        ego_from_camera=torch.stack([turned(55.0), turned(-55.0)]),
        image_size=SIZE,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": np.full((3, 3), np.nan)}, "not finite"),
        ({"matrix": np.zeros((3, 3))}, "not calibrated"),
        ({"size": (0, 160)}, "image size must be positive"),
        ({"distortion": np.array([0.1, np.nan, 0, 0, 0]), "model": "plumb_bob"}, "distortion is not finite"),
        ({"distortion": np.array([0.1, 0, 0, 0, 0]), "model": "thin_prism"}, "'thin_prism'.*plumb_bob"),
        ({"distortion": np.array([0.1, 0, 0]), "model": "plumb_bob"}, "needs 4 or 5 coefficients, but has 3"),
    ],
)
def test_unusable_calibration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(**{"matrix": MATRIX, "size": SIZE, **change})


def test_matrix_follows_the_size_of_the_image() -> None:
    calibration = Calibration(matrix=MATRIX, size=SIZE)
    # Corner of the image, half a pixel out of the first pixel's centre, stays a corner.
    ray = np.linalg.inv(MATRIX) @ [-0.5, -0.5, 1.0]
    np.testing.assert_allclose(calibration.matrix_at((45, 80)) @ ray, [-0.5, -0.5, 1.0], atol=1e-12)
    np.testing.assert_array_equal(calibration.matrix_at(SIZE), MATRIX)


def test_aspect_must_be_that_of_the_calibration() -> None:
    calibration = Calibration(matrix=MATRIX, size=SIZE)
    calibration.check_aspect((45, 80))
    with pytest.raises(ValueError, match="160x120 has another aspect than its calibration, 160x90"):
        calibration.check_aspect((120, 160))


def test_straight_lens_is_left_alone() -> None:
    image = np.zeros((90, 160, 3), dtype=np.uint8)
    assert Rectifier().rectify(image, Calibration(matrix=MATRIX, size=SIZE)) is image


@pytest.mark.parametrize(
    ("model", "lens"),
    [
        ("plumb_bob", [-0.2, 0.05, 0.001, -0.001, 0.0]),
        ("rational_polynomial", [0.3, 0.1, 0.0, 0.0, 0.01, 0.6, 0.2, 0.02]),
        ("equidistant", [0.05, -0.02, 0.01, 0.0]),
    ],
)
@pytest.mark.parametrize("scale", [1, 2])
def test_distorted_point_lands_where_a_straight_lens_sees_it(model: str, lens: list[float], scale: int) -> None:
    size = (SIZE[0] * scale, SIZE[1] * scale)
    calibration = Calibration(matrix=MATRIX, size=SIZE, distortion=np.array(lens), model=model)
    matrix = calibration.matrix_at(size)
    point = np.array([[[0.35, -0.2, 1.0]]])
    nothing = np.zeros(3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    u, v = project(point, nothing, nothing, matrix, np.array(lens))[0].ravel()
    image = np.zeros((*size, 3), dtype=np.uint8)
    cv2.circle(image, (round(u), round(v)), 3, (255, 255, 255), -1)
    straight = Rectifier().rectify(image, calibration)
    rows, cols = np.nonzero(straight[..., 0] > 127)
    expected = matrix @ point.ravel()
    assert abs(expected[0] - u) > 0.7 * scale, "the lens must bend visibly for this test to show anything"
    assert abs(cols.mean() - expected[0]) < 1.0
    assert abs(rows.mean() - expected[1]) < 1.0


def test_maps_are_made_once_for_a_calibration_and_size() -> None:
    lens = np.array([-0.2, 0.05, 0.0, 0.0, 0.0])
    rectifier = Rectifier()
    image = np.zeros((90, 160, 3), dtype=np.uint8)
    rectifier.rectify(image, Calibration(matrix=MATRIX, size=SIZE, distortion=lens, model="plumb_bob"))
    maps = rectifier._maps
    rectifier.rectify(image, Calibration(matrix=MATRIX.copy(), size=SIZE, distortion=lens.copy(), model="plumb_bob"))
    assert rectifier._maps is maps
    rectifier.rectify(
        image,
        Calibration(matrix=MATRIX + np.eye(3) - np.diag([0, 0, 1]), size=SIZE, distortion=lens, model="plumb_bob"),
    )
    assert rectifier._maps is not maps


def test_store_keeps_the_newest_and_tells_why_there_is_none() -> None:
    news: list[tuple[str, Calibration | str]] = []
    store = CalibrationStore(lambda: news)
    with pytest.raises(ValueError, match="no camera_info yet"):
        store.get("LEFT")
    news[:] = [("LEFT", Calibration(matrix=MATRIX, size=SIZE))]
    assert store.get("LEFT").size == SIZE
    news.clear()
    assert store.get("LEFT").size == SIZE
    news[:] = [("LEFT", "camera matrix is not finite")]
    with pytest.raises(ValueError, match="not finite"):
        store.get("LEFT")


def test_store_waits_for_each_camera_but_once() -> None:
    news: list[tuple[str, Calibration | str]] = []
    store = CalibrationStore(lambda: news)
    started = time.monotonic()
    threading.Timer(0.05, news.append, args=[("LEFT", Calibration(matrix=MATRIX, size=SIZE))]).start()
    store.wait_for(["LEFT"], timeout_s=5.0)
    assert store.get("LEFT") is not None
    store.wait_for(["LEFT", "RIGHT"], timeout_s=0.05)
    store.wait_for(["LEFT", "RIGHT"], timeout_s=5.0)
    assert time.monotonic() - started < 4.0


def test_rig_file_round_trip(tmp_path: Path) -> None:
    rig = two_cameras()
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(rig.to_dict()))
    loaded = load_rig(str(path))
    mountings = RigMountings(loaded)
    np.testing.assert_array_equal(mountings.ego_from_camera("LEFT", "", 0), rig.ego_from_camera[0].numpy())
    np.testing.assert_array_equal(calibrations_of(loaded)["RIGHT"].matrix, MATRIX)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("[1, 2]", "holds no rig"),
        ("{a: [", "cannot be read"),
        ("cameras: []", "list of 1...64 cameras"),
    ],
)
def test_bad_rig_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "rig.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_rig(str(path))


def test_likeness_to_training() -> None:
    training = two_cameras()
    assert differences_from_training(training.names, training, training, focal_tolerance=0.15) == []
    # Twice the size with twice the focal length is the same view.
    larger = replace(
        training,
        intrinsics=torch.from_numpy(np.stack([np.diag([2.0, 2.0, 1.0]) @ MATRIX] * 2)),
        image_size=(180, 320),
    )
    assert differences_from_training(training.names, larger, training, focal_tolerance=0.15) == []
    tele = replace(training, intrinsics=torch.from_numpy(np.stack([np.diag([2.0, 2.0, 1.0]) @ MATRIX, MATRIX])))
    (line,) = differences_from_training(("a", "b"), tele, training, focal_tolerance=0.15)
    # 2 atan(80 / 200) and 2 atan(80 / 100)
    assert line == "a sees 44 degrees, the model was trained on 77: its depth will be wrong"
    swapped = replace(training, ego_from_camera=training.ego_from_camera.flip(0))
    lines = differences_from_training(training.names, swapped, training, focal_tolerance=0.15)
    assert len(lines) == 2
    assert "LEFT looks 110 degrees away" in lines[0]


def moved(rig: CameraRig, *shift: float, camera: int | None = None) -> CameraRig:
    poses = rig.ego_from_camera.clone()
    poses[slice(None) if camera is None else camera, :3, 3] += torch.tensor(shift, dtype=torch.float64)
    return replace(rig, ego_from_camera=poses)


def rolled(rig: CameraRig, degrees: float) -> CameraRig:
    turn = torch.eye(4, dtype=torch.float64)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])
    return replace(rig, ego_from_camera=torch.cat([rig.ego_from_camera[:1] @ turn, rig.ego_from_camera[1:]]))


@pytest.mark.parametrize(
    ("shift", "parts"),
    [
        ((0.0, 0.0, -0.35), ["all cameras are 0.35 m lower than in training", "0.35 m too high", "on the ground"]),
        ((0.0, 0.0, 1.2), ["all cameras are 1.20 m higher than in training", "1.20 m too low"]),
        ((0.0, 0.0, -1.9), ["all cameras are 1.90 m lower"]),
        ((-3.6, 0.0, 0.0), ["all cameras are 3.60 m away from the place in training", "area that is searched moves"]),
    ],
)
def test_base_frame_elsewhere_is_one_line_with_its_effect(shift: tuple[float, ...], parts: list[str]) -> None:
    training = two_cameras()
    (line,) = differences_from_training(training.names, moved(training, *shift), training, focal_tolerance=0.15)
    assert all(part in line for part in parts), line


def test_effect_of_height_is_that_of_the_road_seen_at_20_m() -> None:
    training = moved(two_cameras(), 0.0, 0.0, 1.5 - float(two_cameras().ego_from_camera[0, 2, 3]))
    (line,) = differences_from_training(("A", "B"), moved(training, 0, 0, -0.45), training, focal_tolerance=0.15)
    assert "(1.05 m above base_frame instead of 1.50, A)" in line
    assert "at 20 m up to 6.0 m off" in line  # 20 * 0.45 / 1.5


def test_one_camera_elsewhere_is_named() -> None:
    training = two_cameras()
    lines = differences_from_training(
        ("A", "B"), moved(training, 0.0, 1.4, 0.5, camera=1), training, focal_tolerance=0.15
    )
    assert [line.split(" is ")[0] for line in lines] == ["B", "B"]
    small = moved(training, 0.3, 0.3, 0.2, camera=1)
    assert differences_from_training(("A", "B"), small, training, focal_tolerance=0.15) == []


@pytest.mark.parametrize("degrees", [8.0, -90.0, 180.0])
def test_rolled_camera_is_named_with_its_effect(degrees: float) -> None:
    training = two_cameras()
    (line,) = differences_from_training(("A", "B"), rolled(training, degrees), training, focal_tolerance=0.15)
    assert "A is rolled by" in line
    assert f"{abs(degrees):.0f} degrees against training" in line
    assert f"appears {abs(10 * math.sin(math.radians(degrees))):.1f} m too high or low" in line
