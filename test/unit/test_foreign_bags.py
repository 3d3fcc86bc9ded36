"""Bags of other tools and vehicles: what they are called, where their cameras sit, and what is wrong with them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_bags import START_NS, rewritten, scene_of
from rosbags.rosbag2 import StoragePlugin

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.interface.topics import RAW_IMAGE, TopicMap
from training.bag import messages
from training.bag.choose_topics import choose_topics, match_directions
from training.bag.read_bag import BagError, read_bag
from training.bag.rig import frames_of, rig_of
from training.bag.write_bag import write_scene
from training.replay.config import ReplayConfig, Setup
from training.replay.node_parameters import node_parameters
from training.replay.order import ODOMETRY_FROM_TF, stream
from training.replay.run import _check_playable

YAWS = {"FRONT": 0.0, "LEFT": 75.0, "RIGHT": -75.0, "REAR": 180.0}
CAMERAS = tuple(YAWS)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    return write_scene(scene_of(folder, YAWS), folder / "bag", progress=False)


def config_of(bag: Path, **fields: Any) -> ReplayConfig:
    values = {"bundle": bag, "output": bag.parent / "out", "bags": (bag,), "frames": "all", **fields}
    return ReplayConfig(**values)


def training_rig() -> CameraRig:
    from foreign_bags import mounting_of

    mountings = [mounting_of(yaw + 5) for yaw in YAWS.values()]
    return CameraRig(
        names=CAMERAS,
        intrinsics=torch.from_numpy(np.stack([entry.intrinsics for entry in mountings])),  # type: ignore[misc]
        ego_from_camera=torch.from_numpy(np.stack([entry.ego_from_sensor for entry in mountings])),
        image_size=(96, 160),
    )


def foreign(names: dict[str, str]) -> dict[str, str]:
    """Topics of our bags by those of a vehicle that calls its cameras otherwise."""
    pairs = {f"/{ours}/image_rect_compressed": f"/car/{name}/image_rect/compressed" for ours, name in names.items()}
    pairs |= {f"/{ours}/camera_info": f"/car/{name}/camera_info" for ours, name in names.items()}
    return pairs | {"/odom": "/car/odometry"}


def base_is(frame: str) -> Callable[[str, Any], Any]:
    def change(topic: str, content: Any) -> Any:
        for entry in getattr(content, "transforms", []):
            entry.header.frame_id = entry.header.frame_id.replace("base_link", frame)
            entry.child_frame_id = entry.child_frame_id.replace("base_link", frame)
        if hasattr(content, "child_frame_id"):
            content.child_frame_id = frame
        return content

    return change


def test_cameras_of_other_names_are_known_by_their_direction(ours: Path, tmp_path: Path) -> None:
    names = dict(zip(CAMERAS, ("cam3", "cam1", "cam0", "cam2"), strict=True))
    path = rewritten(ours, tmp_path / "bag", rename=foreign(names), change=base_is("base_footprint"))
    chosen = choose_topics(config_of(path).wish, read_bag(path), CAMERAS, training_rig())
    assert {camera: topics.image for camera, topics in chosen.topics.cameras.items()} == {
        camera: f"/car/{name}/image_rect/compressed" for camera, name in names.items()
    }
    assert chosen.doubts == ()
    assert chosen.topics.node_parameters() == {
        "transport": "compressed",
        "images_rectified": True,
        "base_frame": "base_footprint",
    }
    assert chosen.topics.odometry == "/car/odometry"
    assert "FRONT is /car/cam3/image_rect/compressed" in chosen.notes[0]
    setup = Setup(config=config_of(path), layout=chosen.topics, cameras=CAMERAS)
    _check_playable(setup, read_bag(path))
    assert node_parameters(setup, read_bag(path))["base_frame"] == "base_footprint"


def test_directions_that_are_not_clear_are_not_taken() -> None:
    axes = {name: np.array([np.cos(angle), np.sin(angle), 0.0]) for name, angle in (("a", 0.0), ("b", 0.2), ("c", 2.0))}
    assert match_directions({"a": axes["a"], "c": axes["c"]}, {"F": axes["a"], "L": axes["c"]}) == {"F": "a", "L": "c"}
    assert match_directions(axes, {"F": axes["a"]}) == {}  # b looks almost there too
    assert match_directions({"c": axes["c"]}, {"F": axes["a"]}) == {}
    assert match_directions({"a": axes["a"]}, {"F": axes["a"], "G": axes["b"]}) == {}


def test_the_images_type_is_that_of_the_bag(ours: Path, tmp_path: Path) -> None:
    def raw(topic: str, content: Any) -> Any:
        return content

    bag = read_bag(rewritten(ours, tmp_path / "bag", change=raw))
    topics = dict.fromkeys((f"/{camera}/image_rect_compressed" for camera in CAMERAS), RAW_IMAGE)
    other = replace(bag, topics={**bag.topics, **topics})
    config = config_of(bag.path, layout="bevdistill")
    chosen = choose_topics(config.wish, other, CAMERAS, None)
    assert chosen.topics.transport == "raw"
    assert "the images in the bag are sensor_msgs/msg/Image" in chosen.notes[0]
    with pytest.raises(BagError, match=r"holds sensor_msgs/msg/Image, but the topic map says .*CompressedImage"):
        _check_playable(Setup(config=config, layout=TopicMap(), cameras=CAMERAS), other)


def mountings_on_tf(topic: str, content: Any) -> Any:
    """All on /tf, again and again, with leading slashes, as nuscenes2bag and ros2_dataset_bridge send them."""
    if topic == "/tf_static":
        mountings_on_tf.kept = content.transforms  # type: ignore[attr-defined]
        return None
    if topic == "/tf":
        content.transforms = [*content.transforms, *mountings_on_tf.kept]  # type: ignore[attr-defined]
        for entry in content.transforms:
            entry.header.frame_id = f"/{entry.header.frame_id.lstrip('/')}"
    return content


def test_mountings_on_tf(ours: Path, tmp_path: Path) -> None:
    path = rewritten(ours, tmp_path / "bag", change=mountings_on_tf)
    bag, layout = read_bag(path), TopicMap()
    assert "/tf_static" not in bag.topics
    frames = frames_of(bag, layout)
    assert set(frames.fixed) == set(CAMERAS)
    assert frames.moving == {"base_link": "map"}
    torch.testing.assert_close(
        rig_of(bag, layout, CAMERAS).ego_from_camera, rig_of(read_bag(ours), layout, CAMERAS).ego_from_camera
    )


def test_motion_on_tf_is_played_as_odometry(ours: Path, tmp_path: Path) -> None:
    path = rewritten(ours, tmp_path / "bag", change=mountings_on_tf, drop=("/odom", "/nuscenes/sample"))
    bag = read_bag(path)
    chosen = choose_topics(config_of(path).wish, bag, CAMERAS, None)
    assert chosen.topics.odometry == ""
    setup = Setup(config=config_of(path), layout=chosen.topics, cameras=CAMERAS)
    assert "ego_motion.source" not in node_parameters(setup, bag)
    played = list(stream(bag, [ODOMETRY_FROM_TF, "/FRONT/camera_info"], chosen.topics, CAMERAS))
    poses = [message for message in played if message.topic == ODOMETRY_FROM_TF]
    expected = [content for _, content in read_bag(ours).decoded("/odom")]
    found = [messages.standard_types().deserialize_cdr(message.data, message.message_type) for message in poses]
    assert [messages.stamp_of(content) for content in found] == [messages.stamp_of(content) for content in expected]
    assert [content.pose.pose.position.x for content in found] == [content.pose.pose.position.x for content in expected]
    assert {content.child_frame_id for content in found} == {"base_link"}


def test_nothing_tells_the_motion(ours: Path, tmp_path: Path) -> None:
    path = rewritten(ours, tmp_path / "bag", drop=("/odom", "/tf"))
    chosen = choose_topics(config_of(path).wish, read_bag(path), CAMERAS, None)
    setup = Setup(config=config_of(path), layout=chosen.topics, cameras=CAMERAS)
    assert node_parameters(setup, read_bag(path))["ego_motion.source"] == "none"


def test_an_odometry_that_was_asked_for_must_be_there(ours: Path) -> None:
    with pytest.raises(BagError, match="has no /my/odom; it has /"):
        choose_topics(config_of(ours, odometry_topic="/my/odom").wish, read_bag(ours), CAMERAS, None)


def test_a_missing_camera_info_names_both_parameters(ours: Path, tmp_path: Path) -> None:
    path = rewritten(ours, tmp_path / "bag", drop=[f"/{camera}/camera_info" for camera in CAMERAS])
    for parameters in ({}, {"rig_file": "rig.yaml"}):
        setup = Setup(config=config_of(path, parameters=parameters), layout=TopicMap(), cameras=CAMERAS)
        with pytest.raises(BagError, match=r"rig_file .* and intrinsics: rig_file"):
            _check_playable(setup, read_bag(path))
    parameters = {"rig_file": "rig.yaml", "intrinsics": "rig_file"}
    _check_playable(
        Setup(config=config_of(path, parameters=parameters), layout=TopicMap(), cameras=CAMERAS), read_bag(path)
    )


def test_the_base_frame_is_named_where_another_is_needed(ours: Path, tmp_path: Path) -> None:
    bag = read_bag(rewritten(ours, tmp_path / "bag", change=base_is("vehicle")))
    with pytest.raises(
        BagError, match=r"does not connect 'FRONT' to 'base_link'; .* give the parameter base_frame: vehicle"
    ):
        rig_of(bag, TopicMap(), CAMERAS)


def test_frames_that_only_the_images_name(ours: Path, tmp_path: Path) -> None:
    def change(topic: str, content: Any) -> Any:
        if topic.endswith("camera_info"):
            content.header.frame_id = ""
        return content

    bag = read_bag(rewritten(ours, tmp_path / "bag", change=change))
    torch.testing.assert_close(
        rig_of(bag, TopicMap(), CAMERAS).ego_from_camera, rig_of(read_bag(ours), TopicMap(), CAMERAS).ego_from_camera
    )


def test_topics_without_a_leading_slash(ours: Path, tmp_path: Path) -> None:
    names = {topic: topic.lstrip("/") for topic in read_bag(ours).topics}
    bag = read_bag(rewritten(ours, tmp_path / "bag", rename=names, storage=StoragePlugin.SQLITE3))
    assert bag.counts["/FRONT/camera_info"] == 3
    assert {message.topic for message in bag.messages(["/odom"])} == {"/odom"}
    _check_playable(Setup(config=config_of(bag.path), layout=TopicMap(), cameras=CAMERAS), bag)


def test_stamps_that_are_all_zero(ours: Path, tmp_path: Path) -> None:
    def change(topic: str, content: Any) -> Any:
        if hasattr(content, "header"):
            content.header.stamp.sec = content.header.stamp.nanosec = 0
        return content

    bag = read_bag(rewritten(ours, tmp_path / "bag", change=change))
    with pytest.raises(BagError, match="stamps in the headers of /FRONT/image_rect_compressed are 0"):
        _check_playable(Setup(config=config_of(bag.path), layout=TopicMap(), cameras=CAMERAS), bag)


def test_storage_without_its_metadata(ours: Path, tmp_path: Path) -> None:
    expected = list(read_bag(ours).messages())
    storage = next(ours.glob("*.mcap"))
    (tmp_path / "bare").mkdir()
    shutil.copy(storage, tmp_path / "bare" / "drive_0.mcap")
    shutil.copytree(ours, tmp_path / "renamed")
    (tmp_path / "renamed" / storage.name).rename(tmp_path / "renamed" / "drive.mcap")
    for path in (tmp_path / "bare", tmp_path / "bare" / "drive_0.mcap"):
        assert list(read_bag(path).messages()) == expected
    with pytest.raises(BagError, match=r"is missing; give .*drive\.mcap itself, or .* ros2 bag reindex"):
        read_bag(tmp_path / "renamed")


def test_split_files_without_metadata_are_read_in_order(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    middle = START_NS + 600_000_000
    for name, keep in (("b.mcap", lambda stamp: stamp < middle), ("a.mcap", lambda stamp: stamp >= middle)):

        def part(topic: str, content: Any, keep: Any = keep) -> Any:
            stamp = messages.stamp_of(content if hasattr(content, "header") else content.transforms[0])
            return content if keep(stamp) else None

        made = rewritten(ours, tmp_path / name, change=part)
        shutil.copy(next(made.glob("*.mcap")), tmp_path / "split" / name)
    bag = read_bag(tmp_path / "split")
    assert bag.counts["/odom"] == read_bag(ours).counts["/odom"]
    stamps = [message.stamp_ns for message in bag.messages(["/odom"])]
    assert stamps == sorted(stamps)
    assert bag.start_ns == read_bag(ours).start_ns


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("old.bag", b"#ROSBAG V2.0\n" + bytes(4096), r"of ROS 1: rosbags-convert --src .*old.bag --dst .*old"),
        (
            "a.mcap",
            b"\x89MCAP0\r\n\x01" + (8).to_bytes(8, "little") + bytes(8) + b"protobuf",
            "profile '', not one of ROS 2",
        ),
        ("b.mcap", b"hello", "is not an MCAP file: it begins with 68"),
        ("c.mcap", b"", "is empty"),
        ("d.mcap", b"\x28\xb5\x2f\xfd1234", "compressed as a file: unzstd"),
        ("e.db3", b"SQLite format 3\0" + bytes(100), "cut off: sqlite3 .*e.db3 .recover"),
    ],
)
def test_what_a_file_is_and_what_mends_it(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError, match=said) as caught:
        read_bag(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_recording_that_was_cut_off(ours: Path, tmp_path: Path) -> None:
    data = next(ours.glob("*.mcap")).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) * 7 // 10])
    with pytest.raises(BagError, match=r"cut off: mcap recover .*cut.mcap -o .*cut-mended.mcap"):
        read_bag(tmp_path / "cut.mcap")
