"""Which part of a camera image the network sees, for cameras of any shape and mounting."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.core.geometry import matrix_from_quaternion
from bevdistill_ros.core.scene import horizon_row, object_pixels
from bevdistill_ros.model.config import StudentConfig, completed
from bevdistill_ros.model.fit import Fit, FitPolicy, ImageTarget, fit_of, shown_share
from bevdistill_ros.model.preprocess import preprocess
from training.synth.rig import nuscenes_cameras

INPUTS = [(256, 704), (128, 320), (96, 256), (128, 352)]  # height, width [px] of the configurations in config/train
SHAPES = {  # height, width, focal length [px]
    "4:3": (1080, 1440, 1140.0),
    "5:4": (1024, 1280, 1010.0),
    "portrait": (2048, 1550, 1227.0),
    "square": (1200, 1200, 900.0),
    "16:10": (1200, 1920, 1400.0),
    "wide 4:3": (960, 1280, 400.0),
}


def turn(degrees: float, axis: int) -> np.ndarray:
    half = math.radians(degrees) / 2
    quaternion = np.array([math.cos(half), 0.0, 0.0, 0.0])
    quaternion[1 + axis] = math.sin(half)
    return matrix_from_quaternion(quaternion)


def mounted(*, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0, height: float = 1.5) -> np.ndarray:
    """ego_from_camera (4, 4): yaw to the left, pitch down, roll clockwise [degrees], height above ground [m]."""
    pose = np.eye(4)
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    pose[:3, :3] = turn(yaw, 2) @ turn(pitch, 1) @ turn(roll, 0) @ optical
    pose[:3, 3] = (1.5, 0.0, height)
    return pose


def matrix_of(height: int, width: int, focal: float) -> np.ndarray:
    return np.array([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])


def target_of(size: tuple[int, int], policy: FitPolicy = "horizon") -> ImageTarget:
    return ImageTarget(height=size[0], width=size[1], policy=policy)


@pytest.mark.parametrize("size", INPUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt", [{}, {"pitch": 8.0}, {"pitch": -4.0}, {"roll": 5.0}, {"yaw": 100.0, "height": 2.6}])
def test_the_road_is_seen_by_cameras_of_any_shape(shape: str, size: tuple[int, int], tilt: dict[str, float]) -> None:
    image = SHAPES[shape][:2]
    matrix, pose = matrix_of(*SHAPES[shape]), mounted(**tilt)
    fit = fit_of(image, target_of(size), matrix, pose)
    assert shown_share(fit, image, target_of(size), matrix, pose) > 0.8
    row = horizon_row(fit.matrix(image) @ matrix, pose, fit.cols / 2)
    assert 0 <= row < 0.6 * size[0]


def test_what_the_old_crop_lost() -> None:
    """The kind of camera for which the top crop put the horizon outside of the input."""
    matrix, pose, image = matrix_of(*SHAPES["portrait"]), mounted(), (2048, 1550)
    old = fit_of(image, target_of((256, 704), "top"), matrix, pose)
    assert horizon_row(old.matrix(image) @ matrix, pose, 352) == pytest.approx(-210, abs=1)
    assert shown_share(old, image, target_of((256, 704)), matrix, pose) < 0.1
    new = fit_of(image, target_of((256, 704)), matrix, pose)
    assert shown_share(new, image, target_of((256, 704)), matrix, pose) > 0.95


@pytest.mark.parametrize("size", [*INPUTS, (928, 1600), (480, 800)])
@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (0.7, 1.0), (-0.7, -1.0), (0.7, -1.0)])
def test_the_rig_of_nuscenes_keeps_its_crop(size: tuple[int, int], pitch: float, roll: float) -> None:
    """Also where a vehicle's cameras are mounted a little differently."""
    for camera in nuscenes_cameras(width=1600, height=900):
        pose = camera.ego_from_camera.copy()
        pose[:3, :3] = pose[:3, :3] @ turn(pitch, 0) @ turn(roll, 2)
        fits = [fit_of((900, 1600), target_of(size, policy), camera.intrinsics, pose) for policy in ("horizon", "top")]
        assert fits[0] == fits[1]


@pytest.mark.parametrize("policy", ["horizon", "top"])
@pytest.mark.parametrize("size", [(256, 704), (128, 320)])
def test_pixels_and_intrinsics_of_nuscenes_are_those_of_the_first_release(
    size: tuple[int, int], policy: FitPolicy
) -> None:
    """Weights trained on them, such as the demo's, see the same bits; written out as it was."""
    camera = nuscenes_cameras(width=1600, height=900)[1]
    image = np.random.default_rng(5).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    rows = round(900 * size[1] / 1600)
    halvings = max((1600 // size[1]).bit_length() - 1, 0)
    scaled = cv2.resize(image, (1600 >> halvings, 900 >> halvings), interpolation=cv2.INTER_AREA)
    if scaled.shape[:2] != (rows, size[1]):
        scaled = cv2.resize(scaled, (size[1], rows), interpolation=cv2.INTER_LINEAR)
    scale_u, scale_v, cut = size[1] / 1600, rows / 900, rows - size[0]
    change = [[scale_u, 0.0, 0.5 * scale_u - 0.5], [0.0, scale_v, 0.5 * scale_v - 0.5 - cut], [0.0, 0.0, 1.0]]
    expected = torch.tensor(change, dtype=torch.float64) @ torch.from_numpy(camera.intrinsics)

    found, intrinsics, _ = preprocess(
        [image],
        torch.from_numpy(camera.intrinsics)[None],
        torch.from_numpy(camera.ego_from_camera)[None],
        [(900, 1600)],
        target=target_of(size, policy),
    )
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), scaled[cut:])
    assert torch.equal(intrinsics[0], expected)


def test_a_camera_on_its_side_is_shown_whole() -> None:
    pose, matrix = mounted(roll=90.0), matrix_of(*SHAPES["4:3"])
    fit = fit_of((1080, 1440), target_of((256, 704)), matrix, pose)
    assert fit == Fit(rows=256, cols=341, top=0)


def test_a_camera_that_sees_no_road_is_shown_whole() -> None:
    fit = fit_of((1080, 1440), target_of((256, 704)), matrix_of(*SHAPES["4:3"]), mounted(pitch=-60.0))
    assert (fit.rows, fit.cols) == (256, 341)
    assert math.isnan(
        shown_share(fit, (1080, 1440), target_of((256, 704)), matrix_of(*SHAPES["4:3"]), mounted(pitch=-60.0))
    )


def test_the_crop_follows_the_pitch() -> None:
    matrix = matrix_of(*SHAPES["4:3"])
    tops = [
        fit_of((1080, 1440), target_of((256, 704)), matrix, mounted(pitch=pitch)).top for pitch in (-8, -4, 0, 4, 8)
    ]
    assert tops == sorted(tops, reverse=True)
    assert tops[0] == 528 - 256  # looking up: the lowest crop
    per_degree = (tops[2] - tops[3]) / 4
    assert per_degree == pytest.approx(1140 * 704 / 1440 * math.radians(1), rel=0.1)


@pytest.mark.parametrize(
    ("image", "size", "expected"),
    [
        ((900, 1600), (480, 800), (450, 800)),  # BEVFormer-tiny
        ((900, 1600), (928, 1600), (900, 1600)),  # BEVFormer-base
        ((1080, 1440), (480, 800), (480, 640)),  # higher than the input
        ((500, 2000), (480, 800), (200, 800)),
    ],
)
def test_pad_scales_the_whole_image_and_fills_right_and_bottom(
    image: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    target = ImageTarget(height=size[0], width=size[1], policy="pad", fill=(124, 116, 104))
    matrix, white = matrix_of(*image, 1000.0), np.full((*image, 3), 255, dtype=np.uint8)
    found, intrinsics, _ = preprocess(
        [white], torch.from_numpy(matrix)[None], torch.from_numpy(mounted())[None], [image], target=target
    )
    rows, cols = expected
    assert (found[0, :, :rows, :cols] == 255).all()
    for channel, value in enumerate(target.fill):
        assert (found[0, channel, rows:] == value).all()
        assert (found[0, channel, :, cols:] == value).all()
    scale = cols / image[1]
    assert float(intrinsics[0, 0, 0]) == pytest.approx(1000 * scale)
    assert float(intrinsics[0, 0, 2] + 0.5) == pytest.approx((matrix[0, 2] + 0.5) * scale)
    assert float(intrinsics[0, 1, 2] + 0.5) == pytest.approx((matrix[1, 2] + 0.5) * rows / image[0])


@pytest.mark.parametrize("policy", ["horizon", "pad", "top"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("roll", [0.0, 12.0, 90.0])
def test_a_point_stays_on_its_ray(shape: str, policy: FitPolicy, roll: float) -> None:
    height, width, focal = SHAPES[shape]
    matrix, pose = matrix_of(height, width, focal), mounted(roll=roll)
    target = target_of((256, 704), policy)
    fit = fit_of((height, width), target, matrix, pose)
    row, col = height * (fit.top + 120) // fit.rows, width // 3
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[row : row + 24, col : col + 24] = 255
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 6.0))
    found, intrinsics, _ = preprocess(
        [image], torch.from_numpy(matrix)[None], torch.from_numpy(pose)[None], [(height, width)], target=target
    )
    light = found[0].double().sum(0)
    v, u = torch.meshgrid(torch.arange(256), torch.arange(704), indexing="ij")
    seen = [float((axis * light).sum() / light.sum()) for axis in (u, v)]
    ray = np.linalg.inv(matrix) @ [col + 11.5, row + 11.5, 1.0]
    assert seen == pytest.approx((intrinsics[0].numpy() @ ray)[:2].tolist(), abs=0.05)


def test_cameras_of_mixed_sizes_are_fitted_one_by_one() -> None:
    shapes = [SHAPES["4:3"], SHAPES["portrait"], (900, 1600, 1266.0)]
    images: list[np.ndarray | None] = [
        np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width, _ in shapes
    ]
    matrices = torch.from_numpy(np.stack([matrix_of(*shape) for shape in shapes]))
    poses = torch.from_numpy(np.stack([mounted(), mounted(pitch=5.0), mounted(yaw=60.0)]))
    sizes = [(height, width) for height, width, _ in shapes]
    together, intrinsics, _ = preprocess(images, matrices, poses, sizes, target=target_of((256, 704)))
    for number in range(3):
        one = slice(number, number + 1)
        alone, own, _ = preprocess(images[one], matrices[one], poses[one], sizes[one], target=target_of((256, 704)))
        assert torch.equal(alone[0], together[number])
        assert torch.equal(own[0], intrinsics[number])


def test_missing_cameras_have_the_fill_colour() -> None:
    target = ImageTarget(height=32, width=64, fill=(1, 2, 3))
    found, _, valid = preprocess(
        [None],
        torch.from_numpy(matrix_of(*SHAPES["4:3"]))[None],
        torch.from_numpy(mounted())[None],
        [(1080, 1440)],
        target=target,
    )
    assert not valid[0]
    assert found[0].flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


def test_the_horizon_by_hand() -> None:
    """100 px above the middle for a camera of 1000 px that looks atan(0.1) down; 10 px lower or higher by 1 in 10."""
    matrix = matrix_of(1080, 1440, 1000.0)
    pitched = mounted(pitch=math.degrees(math.atan(0.1)))
    assert horizon_row(matrix, pitched, 719.5) == pytest.approx(539.5 - 100)
    rolled = mounted(roll=math.degrees(math.atan(0.1)))  # its right side is down, so the world turns the other way
    assert horizon_row(matrix, rolled, 819.5) == pytest.approx(539.5 - 10)
    assert (
        math.isnan(horizon_row(matrix, mounted(pitch=90.0), 819.5))
        or abs(horizon_row(matrix, mounted(pitch=90.0), 819.5)) > 1e6
    )


def test_object_points_lie_where_they_are() -> None:
    """The lowest in the image is the ground at 3 m, the highest a bus's roof at 25 m, both at the sides."""
    matrix = matrix_of(4000, 1440, 1000.0)
    rows = object_pixels(matrix, mounted(height=1.8), (4000, 1440))[:, 1] - 1999.5
    assert rows.max() == pytest.approx(1000 * 1.8 / 3 / math.cos(math.atan(0.72)), rel=0.04)
    assert rows.min() == pytest.approx(-1000 * 1.7 / 25 / math.cos(math.atan(0.72)), rel=0.04)


def test_padding_of_a_student_is_the_mean_colour() -> None:
    assert StudentConfig().images.fill == (124, 116, 104)
    assert StudentConfig(backbone="efficientnet_lite0").images.fill == (127, 127, 127)
    assert StudentConfig(image_fit="top").images.fill == (0, 0, 0)


def test_settings_from_before_the_choice_keep_the_top_crop() -> None:
    assert completed({"image_height": 128})["image_fit"] == "top"
    assert completed({"image_fit": "pad"})["image_fit"] == "pad"


def test_table_of_the_documentation() -> None:
    """The rows in docs/cameras.md."""
    rows = []
    for name, (height, width, focal) in {"16:9": (900, 1600, 1266.0), **SHAPES}.items():
        matrix, pose, cells = matrix_of(height, width, focal), mounted(), []
        for policy in ("top", "horizon"):
            target = target_of((256, 704), policy)
            fit = fit_of((height, width), target, matrix, pose)
            row = horizon_row(fit.matrix((height, width)) @ matrix, pose, 352)
            cells += [f"{row:.0f}", f"{shown_share(fit, (height, width), target, matrix, pose):.0%}"]
        rows.append(f"| {name}, {width}x{height} | {focal:.0f} | {' | '.join(cells)} |".replace("%", " %"))
    page = (Path(__file__).parents[3] / "docs" / "cameras.md").read_text()
    assert "\n".join(rows) in page
