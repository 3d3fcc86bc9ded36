import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rosbags.rosbag2 import StoragePlugin, Writer

from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.interface.topics import LAYOUTS, TopicMap, layout_named
from training.bag import messages
from training.bag.read_bag import BagError, poses_of, read_bag, samples_of
from training.bag.rig import rig_of
from training.bag.scene import KeyFrame, Mounting, Scene, SensorFrame
from training.bag.write_bag import Storage, write_scene

START_NS = 1_600_000_000_000_000_123
CAMERAS = ("CAM_FRONT", "CAM_BACK")


def scene_of(folder: Path, num_frames: int = 3) -> Scene:
    """Two cameras 10 ms apart, every half second; the vehicle moves 1 m a frame along its x axis."""
    frames, stamps, poses = [], [], []
    for index in range(num_frames):
        for number, camera in enumerate(CAMERAS):
            path = folder / f"{camera}-{index}.jpg"
            noise = np.random.default_rng(index).integers(0, 255, (96, 160, 3), dtype=np.uint8)
            cv2.imwrite(str(path), noise)
            stamp = START_NS + index * 500_000_000 + number * 10_000_000
            frames.append(SensorFrame(channel=camera, stamp_ns=stamp, path=path))
            pose = np.eye(4)
            pose[:3, 3] = [1000.0 + index + 0.02 * number, 2000.0, 1.0]
            stamps.append(stamp)
            poses.append(pose)
    mountings = {}
    for number, camera in enumerate(CAMERAS):
        mounting = np.eye(4)
        mounting[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
        mounting[:3, 3] = [1.5, number, 1.6]
        intrinsics = np.array([[100.0 + number, 0, 79.5], [0, 100, 47.5], [0, 0, 1]])
        mountings[camera] = Mounting(ego_from_sensor=mounting, intrinsics=intrinsics, size=(96, 160))
    key_frames = tuple(
        KeyFrame(
            token=f"s{index}",
            stamp_ns=frames[2 * index].stamp_ns,
            channel_stamps_ns={frame.channel: frame.stamp_ns for frame in frames[2 * index : 2 * index + 2]},
            annotations=(),
        )
        for index in range(num_frames)
    )
    return Scene(
        name="made",
        frames=tuple(frames),
        mountings=mountings,
        key_frames=key_frames,
        pose_stamps_ns=np.array(stamps),
        global_from_ego=np.stack(poses),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene_of(tmp_path_factory.mktemp("images"))


@pytest.fixture(params=["mcap", "sqlite3"], scope="module")
def bag_path(scene: Scene, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(scene, tmp_path_factory.mktemp("bags") / "made", storage=request.param, progress=False)


@pytest.fixture
def damaged(bag_path: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(bag_path, tmp_path / "copy")


def storage_file(bag: Path) -> Path:
    return next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))


def test_counts_and_times(bag_path: Path) -> None:
    bag = read_bag(bag_path)
    assert bag.counts["/CAM_FRONT/image_rect_compressed"] == 3
    assert bag.counts["/odom"] == 6
    assert bag.start_ns == START_NS
    assert bag.end_ns == START_NS + 1_010_000_000 + 1
    assert bag.topics["/odom"] == "nav_msgs/msg/Odometry"


def test_messages_can_be_read_twice_and_by_topic(bag_path: Path) -> None:
    bag = read_bag(bag_path)
    everything = list(bag.messages())
    assert everything == list(bag.messages())
    assert len(everything) == sum(bag.counts.values())
    chosen = list(bag.messages(["/CAM_BACK/camera_info", "/not/there"]))
    assert [message.topic for message in chosen] == ["/CAM_BACK/camera_info"] * 3
    with pytest.raises(BagError, match="has none of /not/there"):
        next(bag.messages(["/not/there"]))


def test_rig_comes_back(scene: Scene, bag_path: Path) -> None:
    rig = rig_of(read_bag(bag_path), TopicMap(), ("CAM_BACK", "CAM_FRONT"))
    assert rig.names == ("CAM_BACK", "CAM_FRONT")
    assert rig.image_sizes == ((96, 160), (96, 160))
    for name, intrinsics, mounting in zip(rig.names, rig.intrinsics, rig.ego_from_camera, strict=True):
        expected = scene.mountings[name]
        assert expected.intrinsics is not None
        torch.testing.assert_close(intrinsics, torch.from_numpy(expected.intrinsics), rtol=0, atol=0)
        torch.testing.assert_close(mounting, torch.from_numpy(expected.ego_from_sensor))


def test_samples_and_poses_give_the_global_pose(scene: Scene, bag_path: Path) -> None:
    bag = read_bag(bag_path)
    samples, poses = samples_of(bag), poses_of(bag, TopicMap())
    assert [sample.token for sample in samples] == ["s0", "s1", "s2"]
    for index, sample in enumerate(samples):
        stamp_ns = sample.channel_stamps_ns["CAM_BACK"]
        np.testing.assert_allclose(sample.global_from_map @ poses[stamp_ns], scene.global_from_ego[2 * index + 1])


def test_a_chain_of_static_transforms_is_followed(tmp_path: Path) -> None:
    lift, aside, turned = np.eye(4), np.eye(4), np.eye(4)
    lift[2, 3], aside[1, 3] = 1.5, 0.3
    turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    store = messages.standard_types()
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        static = writer.add_connection("/tf_static", "tf2_msgs/msg/TFMessage", typestore=store)
        info = writer.add_connection("/CAM_FRONT/camera_info", "sensor_msgs/msg/CameraInfo", typestore=store)
        # Two publishers, as of two drivers
        for entry in ([(0, "sensor_kit", "front_optical", aside)], [(0, "base_link", "sensor_kit", lift @ turned)]):
            writer.write(static, 1, messages.serialize(messages.transforms(entry), "tf2_msgs/msg/TFMessage"))
        content = messages.camera_info(1, "front_optical", np.diag([50.0, 50.0, 1.0]), (10, 20))
        writer.write(info, 1, messages.serialize(content, "sensor_msgs/msg/CameraInfo"))
    bag = read_bag(tmp_path / "bag")
    rig = rig_of(bag, TopicMap(), ["CAM_FRONT"])
    # 0.3 m to the left of a kit that looks left is 0.3 m to the back
    expected = torch.tensor([-0.3, 0.0, 1.5], dtype=torch.float64)
    torch.testing.assert_close(rig.ego_from_camera[0, :3, 3], expected)
    with pytest.raises(BagError, match="does not connect 'front_optical' to 'odom'"):
        rig_of(bag, TopicMap(), ["CAM_FRONT"], base_frame="odom")


def test_a_bag_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="does not exist"):
        read_bag(tmp_path / "nothing")
    with pytest.raises(BagError, match=r"it has no metadata\.yaml"):
        read_bag(tmp_path)


def test_a_cut_off_file(damaged: Path) -> None:
    file = storage_file(damaged)
    content = file.read_bytes()
    for size in (0, 50, len(content) // 2):
        file.write_bytes(content[:size])
        with pytest.raises(BagError, match="cannot be read") as caught:
            read_bag(damaged)
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(BagError, match=r"storage file .* is missing"):
        read_bag(damaged)


def test_a_bag_with_fewer_messages_than_its_metadata_says(scene: Scene, damaged: Path, tmp_path: Path) -> None:
    shorter = replace(scene, frames=scene.frames[:2])
    file = storage_file(damaged)
    storage: Storage = "mcap" if file.suffix == ".mcap" else "sqlite3"
    other = write_scene(shorter, tmp_path / "other", storage=storage, progress=False)
    shutil.copyfile(storage_file(other), file)
    with pytest.raises(BagError, match=r"is incomplete: \d+ of \d+ messages are there"):
        read_bag(damaged)


def test_damaged_metadata(damaged: Path) -> None:
    (damaged / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 8}")
    with pytest.raises(BagError, match="does not describe a bag: KeyError: 'relative_file_paths'"):
        read_bag(damaged)


def test_what_is_missing_is_named(scene: Scene, bag_path: Path, tmp_path: Path) -> None:
    bag = read_bag(bag_path)
    with pytest.raises(BagError, match="no calibration of CAM_LEFT: /CAM_LEFT/camera_info is missing or empty"):
        rig_of(bag, TopicMap(), ["CAM_LEFT"])
    bare = write_scene(replace(scene, key_frames=()), tmp_path / "bare", progress=False)
    with pytest.raises(BagError, match="it can be played, not scored"):
        samples_of(read_bag(bare))
    with pytest.raises(BagError, match="has no /other/odometry"):
        poses_of(bag, TopicMap(odometry="/other/odometry"))


def test_each_camera_has_a_size_of_its_own(scene: Scene, tmp_path: Path) -> None:
    back = replace(scene.mountings["CAM_BACK"], size=(48, 80))
    mixed = replace(scene, mountings={**scene.mountings, "CAM_BACK": back})
    bag = read_bag(write_scene(mixed, tmp_path / "mixed", progress=False))
    rig = rig_of(bag, TopicMap(), CAMERAS)
    assert rig.sizes == "CAM_FRONT 160x96, CAM_BACK 80x48"
    assert VehicleRig.from_dict(rig.to_dict()).image_sizes == rig.image_sizes


def test_layouts_name_the_topics_of_other_tools() -> None:
    autoware = layout_named("autoware").routes(["CAM_BACK_LEFT"])
    source, node = "/sensing/camera/camera3", "/bevdistill_detector/input"
    assert autoware == {
        "/localization/kinematic_state": f"{node}/odometry",
        f"{source}/camera_info": f"{node}/CAM_BACK_LEFT/camera_info",
        f"{source}/image_rect_color/compressed": f"{node}/CAM_BACK_LEFT/image/compressed",
    }
    assert (
        layout_named("nuscenes2bag").routes(["CAM_FRONT"])["/cam_front/raw"]
        == "/bevdistill_detector/input/CAM_FRONT/image"
    )
    assert layout_named("ros2_dataset_bridge").image_topic("CAM_BACK") == "/nuscenes/CAM_BACK/image"
    with pytest.raises(ValueError, match=f"'mine' is not known; choose one of {', '.join(LAYOUTS)}"):
        layout_named("mine")
