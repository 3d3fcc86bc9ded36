import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nuscenes import NuScenes
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from training.bag import messages
from training.bag.write_bag import write_bag

VERSION = "v1.0-street"
CAMERAS = ("CAM_FRONT", "CAM_BACK")
START_US = 1_600_000_000_123_457  # an odd number, which float seconds would lose
ORIGIN = np.array([1_234_567.0, 7_654_321.0, 12.0])  # where float32 knows 0.5 m at best
SPEED, TURN = 10.0, 0.2  # [m/s] along x, [rad/s]
OFFSETS_US = {"CAM_FRONT": -40_000, "CAM_BACK": 10_000, "LIDAR_TOP": 0}
K = [[50.0, 0.0, 31.5], [0.0, 51.0, 17.5], [0.0, 0.0, 1.0]]


def ego_pose(stamp_us: int) -> tuple[list[float], list[float]]:
    """Quaternion w-x-y-z and translation: turning while driving along global x."""
    seconds = (stamp_us - START_US) * 1e-6
    half = TURN * seconds / 2
    return [math.cos(half), 0.0, 0.0, math.sin(half)], np.add(ORIGIN, [SPEED * seconds, 0.0, 0.0]).tolist()


def write_tables(root: Path) -> NuScenes:
    """Two key frames 0.5 s apart, sweeps every 0.1 s between them, a parked car."""
    tables: dict[str, list[dict[str, Any]]] = {
        "attribute": [{"token": "moving", "name": "vehicle.moving"}],
        "category": [{"token": "car", "name": "vehicle.car"}],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "instance": [{"token": "i", "category_token": "car"}],
        "log": [{"token": "log", "logfile": "log"}],
        "map": [{"token": "map", "log_tokens": ["log"], "filename": "maps/none.png"}],
        "sensor": [],
        "calibrated_sensor": [],
        "ego_pose": [],
        "sample_data": [],
        "sample": [
            {"token": "s0", "scene_token": "scene", "timestamp": START_US, "prev": "", "next": "s1"},
            {"token": "s1", "scene_token": "scene", "timestamp": START_US + 500_000, "prev": "s0", "next": ""},
        ],
        "scene": [{"token": "scene", "name": "street", "first_sample_token": "s0", "log_token": "log"}],
        "sample_annotation": [],
    }
    (root / "maps").mkdir(parents=True)
    cv2.imwrite(str(root / "maps/none.png"), np.zeros((2, 2), np.uint8))
    for number in (0, 1):
        pose = ego_pose(START_US)[1]
        tables["sample_annotation"].append(
            {
                "token": f"a{number}",
                "sample_token": f"s{number}",
                "instance_token": "i",
                "attribute_tokens": [],
                "visibility_token": "4",
                "translation": [pose[0] + 7.0, pose[1] + 2.0, pose[2] + 1.0],
                "size": [1.9, 4.5, 1.6],
                "rotation": [1.0, 0.0, 0.0, 0.0],
                "num_lidar_pts": 5,
                "num_radar_pts": 0,
                "prev": "a0" if number else "",
                "next": "" if number else "a1",
            }
        )
    for index, (channel, offset) in enumerate(OFFSETS_US.items()):
        camera = channel in CAMERAS
        tables["sensor"].append({"token": channel, "channel": channel, "modality": "camera" if camera else "lidar"})
        tables["calibrated_sensor"].append(
            {
                "token": channel,
                "sensor_token": channel,
                "rotation": [0.5, -0.5, 0.5, -0.5],
                "translation": [1.0 + index, 0.1, 1.5],
                "camera_intrinsic": K if camera else [],
            }
        )
        for step in range(6):
            write_frame(root, tables, channel, START_US + offset + 100_000 * step, step)
    (root / VERSION).mkdir()
    for name, records in tables.items():
        (root / VERSION / f"{name}.json").write_text(json.dumps(records))
    return NuScenes(VERSION, str(root), verbose=False)


def write_frame(root: Path, tables: dict[str, list[dict[str, Any]]], channel: str, stamp_us: int, step: int) -> None:
    key, camera = step in (0, 5), channel in CAMERAS
    token = f"{channel}-{step}"
    path = root / ("samples" if key else "sweeps") / channel / f"{token}.{'jpg' if camera else 'bin'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if camera:
        cv2.imwrite(str(path), np.full((36, 64, 3), 40 * step, np.uint8))
    else:
        np.arange(15, dtype=np.float32).tofile(path)
    rotation, translation = ego_pose(stamp_us)
    tables["ego_pose"].append({"token": token, "timestamp": stamp_us, "rotation": rotation, "translation": translation})
    tables["sample_data"].append(
        {
            "token": token,
            "sample_token": "s0" if step == 0 else "s1",
            "ego_pose_token": token,
            "calibrated_sensor_token": channel,
            "timestamp": stamp_us,
            "fileformat": "jpg" if camera else "bin",
            "is_key_frame": key,
            "height": 36 if camera else 0,
            "width": 64 if camera else 0,
            "filename": str(path.relative_to(root)),
            "prev": f"{channel}-{step - 1}" if step else "",
            "next": f"{channel}-{step + 1}" if step < 5 else "",
        }
    )


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> NuScenes:
    return write_tables(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="module")
def bag(street: NuScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bags") / "street"
    return write_bag(street, "street", output, cameras=CAMERAS, with_lidar=True, progress=False)


def contents(path: Path, topic: str) -> list[tuple[int, Any]]:
    """Stamps and messages of a topic, with the reader and types of rosbags alone."""
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        return [(stamp, reader.deserialize(raw, c.msgtype)) for c, stamp, raw in reader.messages(connections)]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_image_bytes_are_those_of_the_files(street: NuScenes, tmp_path: Path, storage: Any) -> None:
    path = write_bag(street, "street", tmp_path / "bag", cameras=CAMERAS, storage=storage, progress=False)
    found = contents(path, "/CAM_FRONT/image_rect_compressed")
    assert len(found) == 6
    for step, (stamp, message) in enumerate(found):
        folder = "samples" if step in (0, 5) else "sweeps"
        file = Path(street.dataroot) / folder / "CAM_FRONT" / f"CAM_FRONT-{step}.jpg"
        assert message.data.tobytes() == file.read_bytes()
        assert message.format == "jpeg"
        assert message.header.frame_id == "CAM_FRONT"
        assert stamp == (START_US - 40_000 + 100_000 * step) * 1000 == messages.stamp_of(message)


def test_topics_are_those_of_the_interface(bag: Path) -> None:
    with AnyReader([bag]) as reader:
        found = {connection.topic: connection.msgtype for connection in reader.connections}
    assert found == {
        "/CAM_FRONT/image_rect_compressed": "sensor_msgs/msg/CompressedImage",
        "/CAM_BACK/image_rect_compressed": "sensor_msgs/msg/CompressedImage",
        "/CAM_FRONT/camera_info": "sensor_msgs/msg/CameraInfo",
        "/CAM_BACK/camera_info": "sensor_msgs/msg/CameraInfo",
        "/LIDAR_TOP": "sensor_msgs/msg/PointCloud2",
        "/tf_static": "tf2_msgs/msg/TFMessage",
        "/tf": "tf2_msgs/msg/TFMessage",
        "/odom": "nav_msgs/msg/Odometry",
        "/annotations": "vision_msgs/msg/Detection3DArray",
        "/markers/annotations": "visualization_msgs/msg/MarkerArray",
        "/nuscenes/sample": "std_msgs/msg/String",
    }


def test_static_transforms_reach_late_subscribers(bag: Path) -> None:
    with AnyReader([bag]) as reader:
        latched = {
            c.topic for c in reader.connections if c.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        }
    assert latched == {"/tf_static", "/nuscenes/sample", "/annotations", "/markers/annotations"}
    ((_, message),) = contents(bag, "/tf_static")
    front = next(entry for entry in message.transforms if entry.child_frame_id == "CAM_FRONT")
    assert front.header.frame_id == "base_link"
    rotation, translation = front.transform.rotation, front.transform.translation
    # nuScenes writes w-x-y-z
    np.testing.assert_allclose([rotation.w, rotation.x, rotation.y, rotation.z], [0.5, -0.5, 0.5, -0.5], atol=1e-12)
    assert (translation.x, translation.y, translation.z) == (1.0, 0.1, 1.5)


def test_camera_info_is_that_of_a_rectified_camera(bag: Path) -> None:
    infos = contents(bag, "/CAM_BACK/camera_info")
    images = contents(bag, "/CAM_BACK/image_rect_compressed")
    assert [stamp for stamp, _ in infos] == [stamp for stamp, _ in images]
    info = infos[0][1]
    assert (info.height, info.width) == (36, 64)
    np.testing.assert_array_equal(info.k.reshape(3, 3), K)
    np.testing.assert_array_equal(info.p.reshape(3, 4), np.hstack([K, np.zeros((3, 1))]))
    np.testing.assert_array_equal(info.r.reshape(3, 3), np.eye(3))
    np.testing.assert_array_equal(info.d, np.zeros(5))


def test_odometry_starts_at_the_origin_and_holds_every_sensor_stamp(bag: Path) -> None:
    found = contents(bag, "/odom")
    expected = sorted(
        (START_US + offset + 100_000 * step) * 1000 for offset in OFFSETS_US.values() for step in range(6)
    )
    assert [stamp for stamp, _ in found] == expected
    first = found[0][1].pose.pose
    assert (first.position.x, first.position.y, first.position.z) == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(first.orientation.w, 1.0)
    for stamp, message in found:
        # map is the first pose, which is turned by TURN * -0.04 s against the global frame
        seconds = (stamp / 1000 - START_US) * 1e-6 + 0.04
        angle = -TURN * -0.04
        position = message.pose.pose.position
        travelled = SPEED * seconds
        np.testing.assert_allclose(
            [position.x, position.y], [travelled * math.cos(angle), travelled * math.sin(angle)], atol=1e-6
        )


def test_twist_is_the_motion_in_the_vehicle_frame(bag: Path) -> None:
    stamp, message = contents(bag, "/odom")[8]
    heading = TURN * (stamp / 1000 - START_US) * 1e-6
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    expected = [SPEED * math.cos(heading), -SPEED * math.sin(heading)]
    np.testing.assert_allclose([linear.x, linear.y], expected, atol=1e-5)
    np.testing.assert_allclose([angular.x, angular.y, angular.z], [0.0, 0.0, TURN], atol=1e-6)


def test_tf_equals_odometry(bag: Path) -> None:
    for (_, odometry), (_, transforms) in zip(contents(bag, "/odom"), contents(bag, "/tf"), strict=True):
        (entry,) = transforms.transforms
        assert (entry.header.frame_id, entry.child_frame_id) == ("map", "base_link")
        assert entry.transform.translation.x == odometry.pose.pose.position.x
        assert entry.transform.rotation.z == odometry.pose.pose.orientation.z


def test_global_from_map_brings_poses_back(street: NuScenes, bag: Path) -> None:
    samples = [json.loads(message.data) for _, message in contents(bag, "/nuscenes/sample")]
    assert [sample["sample_token"] for sample in samples] == ["s0", "s1"]
    assert [sample["stamp_ns"] for sample in samples] == [START_US * 1000, (START_US + 500_000) * 1000]
    last = samples[1]
    stamp_ns = last["channel_stamps_ns"]["CAM_FRONT"]
    assert stamp_ns == (START_US + 460_000) * 1000
    pose = dict(contents(bag, "/odom"))[stamp_ns].pose.pose.position
    origin = last["global_from_map"]
    w, _, _, z = origin["rotation"]
    yaw = 2 * math.atan2(z, w)
    turned = [math.cos(yaw) * pose.x - math.sin(yaw) * pose.y, math.sin(yaw) * pose.x + math.cos(yaw) * pose.y, pose.z]
    expected = ego_pose(START_US + 460_000)[1]
    np.testing.assert_allclose(np.add(origin["translation"], turned), expected, atol=1e-7)


def test_annotations_replace_each_other_and_lie_in_the_map(bag: Path) -> None:
    found = contents(bag, "/markers/annotations")
    assert [stamp for stamp, _ in found] == [START_US * 1000, (START_US + 500_000) * 1000]
    for _, message in found:
        clear, box = message.markers
        assert clear.action == 3
        assert (box.action, box.type, box.id, box.ns) == (0, 1, 0, "vehicle.car")
        assert (box.scale.x, box.scale.y, box.scale.z) == (4.5, 1.9, 1.6)
        # 7 m ahead and 2 m left of where the vehicle is at START; the map begins 0.4 m before
        angle = TURN * 0.04
        x, y = 7.4, 2.0
        position = box.pose.position
        expected = [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle), 1.0]
        np.testing.assert_allclose([position.x, position.y, position.z], expected, atol=1e-6)


def test_lidar_points_keep_their_five_values(bag: Path) -> None:
    found = contents(bag, "/LIDAR_TOP")
    assert len(found) == 6
    cloud = found[0][1]
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "intensity", "ring"]
    np.testing.assert_array_equal(cloud.data.view("<f4"), np.arange(15))
    assert (cloud.width, cloud.point_step, cloud.row_step) == (3, 20, 60)


def test_poses_come_before_the_images_of_their_stamp(bag: Path) -> None:
    with AnyReader([bag]) as reader:
        order = [(stamp, connection.topic) for connection, stamp, _ in reader.messages()]
    assert order[0][1] == "/tf_static"
    assert [stamp for stamp, _ in order] == sorted(stamp for stamp, _ in order)
    for place, (stamp, topic) in enumerate(order):
        if topic.endswith("image_rect_compressed"):
            assert {(stamp, "/tf"), (stamp, "/odom"), (stamp, topic.split("image")[0] + "camera_info")} <= set(
                order[:place]
            )


def test_key_frames_alone_need_no_sweeps(tmp_path: Path) -> None:
    nusc = write_tables(tmp_path / "data")
    for path in (tmp_path / "data/sweeps").rglob("*.*"):
        path.unlink()
    path = write_bag(nusc, "street", tmp_path / "bag", cameras=CAMERAS, frames="key", progress=False)
    assert len(contents(path, "/CAM_FRONT/image_rect_compressed")) == 2
    assert len(contents(path, "/odom")) == 18
    with pytest.raises(ValueError, match="is missing; without sweeps write key frames only"):
        write_bag(nusc, "street", tmp_path / "all", cameras=CAMERAS, progress=False)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    nusc = write_tables(tmp_path / "data")
    (tmp_path / "data/samples/CAM_BACK/CAM_BACK-5.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"CAM_BACK-5.jpg: neither a JPEG nor a PNG"):
        write_bag(nusc, "street", tmp_path / "bags" / "one", cameras=CAMERAS, progress=False)
    assert list((tmp_path / "bags").iterdir()) == []


def test_nothing_is_overwritten(street: NuScenes, bag: Path) -> None:
    before = sorted((path.name, path.stat().st_size) for path in bag.iterdir())
    with pytest.raises(ValueError, match="already exists"):
        write_bag(street, "street", bag, cameras=CAMERAS, progress=False)
    assert sorted((path.name, path.stat().st_size) for path in bag.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene_name": "road"}, "no scene 'road' in v1.0-street; it has street"),
        ({"cameras": ("CAM_LEFT",)}, "has no camera CAM_LEFT; it has CAM_FRONT, CAM_BACK"),
        ({"storage": "rosbag1"}, "choose 'mcap' or 'sqlite3'"),
    ],
)
def test_what_there_is_not_is_told(street: NuScenes, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"scene_name": "street", "cameras": CAMERAS, "output": tmp_path / "bag"} | changes
    with pytest.raises(ValueError, match=message):
        write_bag(street, progress=False, **arguments)


def test_a_calibration_that_changes_is_refused(tmp_path: Path) -> None:
    write_tables(tmp_path)
    folder = tmp_path / VERSION
    calibrations = json.loads((folder / "calibrated_sensor.json").read_text())
    calibrations.append(calibrations[0] | {"token": "other", "translation": [1.0, 0.2, 1.5]})
    (folder / "calibrated_sensor.json").write_text(json.dumps(calibrations))
    records = json.loads((folder / "sample_data.json").read_text())
    records[3]["calibrated_sensor_token"] = "other"
    (folder / "sample_data.json").write_text(json.dumps(records))
    nusc = NuScenes(VERSION, str(tmp_path), verbose=False)
    with pytest.raises(ValueError, match="CAM_FRONT has several calibrations in scene 'street'"):
        write_bag(nusc, "street", tmp_path / "bag", cameras=CAMERAS, progress=False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("table", "first", "link", "last"),
    [
        ("sample_data", "CAM_FRONT-5", "next", "CAM_FRONT-2"),
        ("sample_data", "CAM_BACK-0", "prev", "CAM_BACK-2"),
        ("sample", "s1", "next", "s0"),
    ],
)
def test_a_circle_of_records_is_refused(tmp_path: Path, table: str, first: str, link: str, last: str) -> None:
    nusc = write_tables(tmp_path / "street")
    nusc.get(table, first)[link] = last
    with pytest.raises(ValueError, match=rf"{table}.json: '{link}' of its records leads back to '"):
        write_bag(nusc, "street", tmp_path / "bag", cameras=CAMERAS, storage="mcap", frames="all")
