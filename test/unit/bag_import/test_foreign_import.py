"""Bags as other tools and vehicles write them become data sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from foreign_bags import rewritten
from nuscenes import NuScenes
from other_layouts import (
    FIVE,
    autoware_bag,
    dataset_bridge_bag,
    five,
    five_camera_bag,
    nuscenes2bag_bag,
    rig_file,
)
from same_data import tiny_world, transform_of

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.records import Detections
from training.bag.read_bag import BagError, read_bag
from training.bag_import.config import BagImportConfig
from training.bag_import.one_bag import import_bag
from training.bag_import.run import import_bags
from training.data.index.load import DataConfig, load_index
from training.data.schema import stamp_ns_of
from training.evaluate.metrics import evaluate_detections

VERSION = "v1.0-bags"
SCENE = "synth-0000"


@pytest.fixture(scope="module")
def original(world: Path) -> NuScenes:
    return NuScenes(tiny_world().version, str(world), verbose=False)


def imported(root: Path, bag: Path, **settings: Any) -> NuScenes:
    config = BagImportConfig(bags=(bag,), root=root, num_workers=1, progress=False, **settings)
    (result,) = import_bags(config)
    assert not result.error
    return NuScenes(VERSION, str(root), verbose=False)


def scene_rows(nusc: NuScenes, scene: str) -> list[dict[str, Any]]:
    token = next(row["token"] for row in nusc.scene if row["name"] == scene)
    return [row for row in nusc.sample if row["scene_token"] == token]


def assert_same_geometry(original: NuScenes, found: NuScenes, names: dict[str, str], *, atol: float = 1e-6) -> None:
    """Key frames, calibrations, relative poses and boxes are those of the data set that the bag was written from."""
    ours, theirs = scene_rows(original, SCENE), scene_rows(found, found.scene[0]["name"])
    assert [stamp_ns_of(row) for row in ours] == [stamp_ns_of(row) for row in theirs]
    origins = []
    for row, other in zip(ours, theirs, strict=True):
        assert set(other["data"]) == {names.get(name, name) for name in row["data"] if name in names}
        for channel, token in row["data"].items():
            if channel not in names:
                continue
            first = original.get("sample_data", token)
            second = found.get("sample_data", other["data"][names[channel]])
            assert stamp_ns_of(first) == stamp_ns_of(second)
            sensors = [n.get("calibrated_sensor", r["calibrated_sensor_token"])
                       for n, r in ((original, first), (found, second))]  # fmt: skip
            np.testing.assert_allclose(transform_of(sensors[0]), transform_of(sensors[1]), atol=atol)
            np.testing.assert_allclose(sensors[0]["camera_intrinsic"], sensors[1]["camera_intrinsic"])
            poses = [
                transform_of(n.get("ego_pose", r["ego_pose_token"])) for n, r in ((original, first), (found, second))
            ]
            origins.append(poses[0] @ np.linalg.inv(poses[1]))
    np.testing.assert_allclose(origins, np.broadcast_to(origins[0], (len(origins), 4, 4)), atol=atol)


def truth_score(nusc: NuScenes, root: Path, split: str, output: Path) -> list[float]:
    """Score of the ground truth itself, of the boxes with points."""
    index = load_index(DataConfig(root=root, version=nusc.version, cache_dir=output))
    found = {}
    for sample in index.samples_of(split):
        rows = index.boxes_of(sample)
        held = torch.tensor(index.num_lidar_points[rows] > 0)
        found[index.token(sample)] = Detections(
            stamp_ns=int(index.stamps_ns[sample]),
            boxes=torch.tensor(index.boxes[rows])[held],
            scores=torch.ones(int(held.sum())),
            labels=torch.tensor(index.labels[rows])[held],
        )
    metrics = evaluate_detections(nusc, found, index.poses_of(split), split, output)
    return [metrics.mean_ap, metrics.tp_errors["trans_err"], metrics.tp_errors["vel_err"]]


def test_nuscenes2bag(world: Path, bags: Path, original: NuScenes, tmp_path: Path) -> None:
    """Raw images, mountings on /tf, no camera_info; boxes as markers."""
    path = nuscenes2bag_bag(bags / SCENE, tmp_path / "bag")
    with pytest.raises(BagError, match=r"has no calibration of CAM_FRONT_LEFT: .* give rig"):
        imported(tmp_path / "none", path)
    rig = rig_file(original, tmp_path / "rig.yaml")
    found = imported(tmp_path / "set", path, rig=rig, image_format="png")
    names = {name: name for name in (*NUSCENES_CAMERAS, "LIDAR_TOP")}
    assert_same_geometry(original, found, names)
    row = next(row for row in found.sample_data if row["channel"] == "CAM_BACK")
    same = next(entry for entry in original.sample_data if entry["channel"] == "CAM_BACK"
                and stamp_ns_of(entry) == stamp_ns_of(row))  # fmt: skip
    np.testing.assert_array_equal(
        cv2.imread(str(tmp_path / "set" / row["filename"])), cv2.imread(str(world / same["filename"]))
    )
    expected = [len(row["anns"]) for row in scene_rows(original, SCENE)]
    assert [len(row["anns"]) for row in scene_rows(found, "bag")] == expected
    scores = truth_score(found, tmp_path / "set", "bags_all", tmp_path / "score")
    assert scores == pytest.approx(truth_score(original, world, "synth_train", tmp_path / "ours"), abs=1e-3)


def test_ros2_dataset_bridge(bags: Path, original: NuScenes, tmp_path: Path) -> None:
    """Raw images with camera_info, mountings on /tf, boxes of vision_msgs in the frame of the vehicle."""
    path = dataset_bridge_bag(bags / SCENE, tmp_path / "bag")
    found = imported(tmp_path / "set", path)
    assert_same_geometry(original, found, {name: name for name in (*NUSCENES_CAMERAS, "LIDAR_TOP")})
    counts = [row["num_lidar_pts"] for row in found.sample_annotation]
    tokens = [token for row in scene_rows(original, SCENE) for token in row["anns"]]
    expected = [original.get("sample_annotation", token)["num_lidar_pts"] for token in tokens]
    # The world counts each echo of an object, of which noise puts some outside of its box.
    assert 0.75 * sum(expected) < sum(counts) <= sum(expected)
    velocity = [found.box_velocity(row["token"]) for row in found.sample_annotation if row["next"]]
    assert np.isfinite(velocity).all()


@pytest.mark.parametrize(("order", "kinds"), [("<", ("f4", "f4", "f4", "f4", "u2", "f8")),
                                              (">", ("f8", "f8", "f8", "u2", "u2", "u4"))])  # fmt: skip
def test_autoware(
    world: Path, bags: Path, original: NuScenes, tmp_path: Path, order: str, kinds: tuple[str, ...]
) -> None:
    path = autoware_bag(bags / SCENE, tmp_path / "drive", order=order, kinds=kinds)
    found = imported(tmp_path / "set", path)
    assert_same_geometry(original, found, {name: name for name in (*NUSCENES_CAMERAS, "LIDAR_TOP")})
    row = next(row for row in found.sample_data if row["channel"] == "LIDAR_TOP")
    same = next(entry for entry in original.sample_data if entry["channel"] == "LIDAR_TOP"
                and stamp_ns_of(entry) == stamp_ns_of(row))  # fmt: skip
    ours = np.fromfile(world / same["filename"], np.float32).reshape(-1, 5)
    points = np.fromfile(tmp_path / "set" / row["filename"], np.float32).reshape(-1, 5)
    np.testing.assert_allclose(points[:, [0, 1, 2, 4]], ours[:, [0, 1, 2, 4]])
    np.testing.assert_allclose(points[:, 3], ours[:, 3], atol=1.0 if kinds[3] == "u2" else 0)
    labels = {found.get("category", entry["category_token"])["name"] for entry in found.instance}
    assert labels <= {"vehicle.car", "vehicle.truck", "vehicle.bus.rigid", "vehicle.trailer", "vehicle.motorcycle",
                      "vehicle.bicycle", "human.pedestrian.adult"}  # fmt: skip
    assert "vehicle.car" in labels


@pytest.fixture
def five_cameras(bags: Path, tmp_path: Path) -> Path:
    return five_camera_bag(bags / SCENE, tmp_path / "five", drop=("/annotations",))


def test_five_cameras_of_other_names(five_cameras: Path, original: NuScenes, tmp_path: Path) -> None:
    found = imported(tmp_path / "mapped", five_cameras, layout=str(five(tmp_path / "topics.yaml")))
    names = {ours: f"OUR_{name.upper()}" for ours, name in FIVE.items()} | {"LIDAR_TOP": "LIDAR_TOP"}
    assert_same_geometry(original, found, names)
    found = imported(tmp_path / "own", five_cameras)
    assert_same_geometry(original, found, {**FIVE, "LIDAR_TOP": "LIDAR_TOP"})
    assert not found.sample_annotation
    assert {row["annotated"] for row in found.sample} == {False}
    index = load_index(DataConfig(root=tmp_path / "own", version=VERSION, num_sweeps=2, cache_dir=tmp_path))
    assert set(index.cameras) == set(FIVE.values())
    assert len(index.samples_of("bags_all")) == 3


def test_poses_between_odometries_are_interpolated(bags: Path, original: NuScenes, tmp_path: Path) -> None:
    """Odometry at 10 Hz or so, at none of the stamps of the sensors."""
    counted = iter(range(10_000))

    def sparse(topic: str, message: Any) -> Any:
        if topic not in ("/odom", "/tf"):
            return message
        return None if topic == "/tf" or next(counted) % 3 else message

    path = rewritten(bags / SCENE, tmp_path / "bag", change=sparse, drop=("/nuscenes/sample", "/markers/annotations"))
    found = imported(tmp_path / "set", path)
    theirs = scene_rows(found, "bag")
    assert len(theirs) >= 2
    for row in theirs:
        same = next(entry for entry in scene_rows(original, SCENE) if stamp_ns_of(entry) == stamp_ns_of(row))
        poses = []
        for nusc, sample in ((original, same), (found, row)):
            keys = [nusc.get("sample_data", sample["data"][name]) for name in ("LIDAR_TOP", "CAM_FRONT")]
            a, b = (transform_of(nusc.get("ego_pose", key["ego_pose_token"])) for key in keys)
            poses.append(np.linalg.inv(a) @ b)
        np.testing.assert_allclose(poses[0], poses[1], atol=0.01)


def damaged(change: Callable[[str, Any], Any], bags: Path, target: Path) -> Path:
    return rewritten(bags / SCENE, target, change=change, drop=("/nuscenes/sample", "/markers/annotations"))


def test_what_is_damaged_is_counted_and_left_out(bags: Path, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def change(topic: str, message: Any) -> Any:
        seen[topic] = seen.get(topic, 0) + 1
        if topic == "/CAM_BACK/image_rect_compressed" and seen[topic] == 2:  # a sweep
            message.data = message.data[:-20]
        if topic == "/CAM_FRONT/image_rect_compressed" and seen[topic] == 1:  # of a key frame
            message.data = np.frombuffer(b"no image at all", np.uint8)
        if topic == "/annotations" and seen[topic] == 3:
            message.detections[0].bbox.size.x = float("nan")
            message.detections[1].results[0].hypothesis.class_id = "ufo"
        return message

    config = BagImportConfig(bags=(), root=tmp_path / "set", num_workers=1, progress=False)
    result = import_bag(config, (damaged(change, bags, tmp_path / "bag"), "bag"))
    assert not result.error
    assert result.key_frames == 2
    reasons = " ".join(f"{count} x {reason}" for reason, count in result.skipped.items())
    assert "1 x damaged messages of /CAM_BACK/image_rect_compressed (ValueError: the image is cut off" in reasons
    assert "1 x damaged messages of /CAM_FRONT/image_rect_compressed (ValueError: the image is neither" in reasons
    assert "1 x key frames without CAM_FRONT" in reasons
    assert "1 x boxes without a place or size" in reasons
    assert "1 x boxes of the class 'ufo', which is none of nuScenes" in reasons


@pytest.mark.parametrize(
    ("drop", "settings", "reason"),
    [
        (("/odom", "/tf"), {}, "does not say how the vehicle moved: .*import it with motion: standing"),
        (("/tf_static",), {}, "the transforms do not connect 'CAM_FRONT_LEFT' .* set base_frame, or give rig"),
        ((), {"lidar_topic": "/velodyne"}, "has no /velodyne; it has"),
        ((), {"annotation_topic": "/odom"}, "/odom holds nav_msgs/msg/Odometry, which has no boxes"),
        ((), {"cameras": ("CAM_FRONT", "DASHBOARD")}, "has no images of DASHBOARD|no topic is named like DASHBOARD"),
        ((), {"layout": "/x/{camera}/image"}, "has no images of the topic map"),
    ],
)
def test_what_a_bag_lacks_is_one_line(
    bags: Path, tmp_path: Path, drop: tuple[str, ...], settings: dict[str, Any], reason: str
) -> None:
    path = rewritten(bags / SCENE, tmp_path / "bag", drop=("/nuscenes/sample", "/markers/annotations", *drop))
    config = BagImportConfig(bags=(path,), root=tmp_path / "set", num_workers=1, progress=False, **settings)
    with pytest.raises(BagError, match=reason):
        import_bags(config)
    assert not config.root.exists()


def test_without_a_motion_the_vehicle_may_stand(bags: Path, tmp_path: Path) -> None:
    path = rewritten(bags / SCENE, tmp_path / "bag", drop=("/nuscenes/sample", "/markers/annotations", "/odom", "/tf"))
    found = imported(tmp_path / "set", path, motion="standing", annotation_topic="")
    assert {tuple(row["translation"]) for row in found.ego_pose} == {(0.0, 0.0, 0.0)}
    assert read_bag(path).counts["/annotations"] == 3


def test_distorted_images_are_straightened(bags: Path, tmp_path: Path) -> None:
    def change(topic: str, message: Any) -> Any:
        if topic.endswith("camera_info"):
            message.d = np.array([-0.2, 0.05, 0.0, 0.0, 0.0])
        return message

    path = rewritten(
        bags / SCENE,
        tmp_path / "bag",
        rename={f"/{camera}/image_rect_compressed": f"/{camera}/image_raw/compressed" for camera in NUSCENES_CAMERAS},
        drop=("/nuscenes/sample", "/markers/annotations"),
        change=change,
    )
    found = imported(tmp_path / "set", path)
    row = next(row for row in found.sample_data if row["channel"] == "CAM_FRONT" and row["is_key_frame"])
    assert row["fileformat"] == "jpg"
    pixels = cv2.imread(str(tmp_path / "set" / row["filename"]))
    assert pixels.shape == (54, 96, 3)
    _, message = next(iter(read_bag(path).decoded("/CAM_FRONT/image_raw/compressed")))
    distorted = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    info = next(iter(read_bag(path).decoded("/CAM_FRONT/camera_info")))[1]
    expected = cv2.undistort(distorted, info.k.reshape(3, 3), info.d)
    assert np.abs(pixels.astype(int) - expected).mean() < 4
    assert np.abs(pixels.astype(int) - distorted).mean() > 2 * np.abs(pixels.astype(int) - expected).mean()


def test_stamps_that_are_not_filled(bags: Path, tmp_path: Path) -> None:
    def change(topic: str, message: Any) -> Any:
        if topic.endswith("compressed"):
            message.header.stamp.sec, message.header.stamp.nanosec = 0, 0
        return message

    with pytest.raises(BagError, match=r"all \d+ stamps of CAM_.* are 0 ns; the driver must fill header.stamp"):
        imported(tmp_path / "set", damaged(change, bags, tmp_path / "bag"))
