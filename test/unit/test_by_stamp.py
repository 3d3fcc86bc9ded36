"""Bags without /nuscenes/sample: their key frames are those of the data set with the same stamps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_bags import mounting_of, rewritten
from nuscenes import NuScenes

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.interface.topics import TopicMap
from training.bag.by_stamp import check_covered, samples_by_stamp
from training.bag.read_bag import BagError, poses_of, read_bag, samples_of
from training.bag.scene import KeyFrame, Scene, SensorFrame
from training.bag.write_bag import write_scene

CAMERAS = ("CAM_FRONT", "CAM_BACK")


@pytest.fixture(scope="module")
def nusc(tiny_world: Any) -> NuScenes:
    return NuScenes(tiny_world.version, str(tiny_world.root), verbose=False)


@pytest.fixture(scope="module")
def ours(nusc: NuScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of ours of the sample of scene-stand."""
    scene = next(scene for scene in nusc.scene if scene["name"] == "scene-stand")
    (sample,) = (sample for sample in nusc.sample if sample["scene_token"] == scene["token"])
    frames, poses = [], {}
    for camera in CAMERAS:
        record = nusc.get("sample_data", sample["data"][camera])
        stamp_ns = 1000 * record["timestamp"]
        frames.append(SensorFrame(channel=camera, stamp_ns=stamp_ns, path=Path(nusc.dataroot) / record["filename"]))
        pose = nusc.get("ego_pose", record["ego_pose_token"])
        poses[stamp_ns] = transform_from(pose["rotation"], pose["translation"])
    stamps = {frame.channel: frame.stamp_ns for frame in frames}
    key_frame = KeyFrame(token=sample["token"], stamp_ns=0, channel_stamps_ns=stamps, annotations=())
    made = Scene(
        name="scene-stand",
        frames=tuple(sorted(frames, key=lambda frame: frame.stamp_ns)),
        mountings={camera: mounting_of(0.0, size=(36, 64)) for camera in CAMERAS},
        key_frames=(key_frame,),
        pose_stamps_ns=np.array(sorted(poses)),
        global_from_ego=np.stack([poses[stamp] for stamp in sorted(poses)]),
    )
    return write_scene(made, tmp_path_factory.mktemp("bags") / "stand", progress=False)


def found_in(path: Path, nusc: NuScenes, split: str = "tiny_val") -> Any:
    return samples_by_stamp(
        read_bag(path), nusc, split, layout=TopicMap(), cameras=CAMERAS, reference_camera="CAM_FRONT"
    )


def shifted(nanoseconds: int) -> Any:
    def change(topic: str, content: Any) -> Any:
        if hasattr(content, "header"):
            stamp = content.header.stamp.sec * 10**9 + content.header.stamp.nanosec + nanoseconds
            content.header.stamp.sec, content.header.stamp.nanosec = divmod(stamp, 10**9)
        return content

    return change


def test_key_frames_and_poses_are_those_that_our_bags_name(ours: Path, nusc: NuScenes, tmp_path: Path) -> None:
    """Also where another writer has passed the stamps through float seconds."""
    expected = samples_of(read_bag(ours))
    for rounded_ns in (0, -200):
        path = rewritten(ours, tmp_path / f"bag{rounded_ns}", late_ms=(5.0, 40.0), change=shifted(rounded_ns))
        samples, poses = found_in(path, nusc)
        assert [sample.token for sample in samples] == [sample.token for sample in expected]
        assert [sample.scene for sample in samples] == ["scene-stand"]
        for sample, other in zip(samples, expected, strict=True):
            moved = {
                camera: stamp + rounded_ns for camera, stamp in other.channel_stamps_ns.items() if camera in CAMERAS
            }
            assert sample.channel_stamps_ns == moved
            front_ns = sample.channel_stamps_ns["CAM_FRONT"]
            known = other.global_from_map @ poses_of(read_bag(ours), TopicMap())[front_ns - rounded_ns]
            np.testing.assert_allclose(sample.global_from_map @ poses[front_ns], known, atol=1e-9)


def test_images_of_another_drive_are_refused(ours: Path, nusc: NuScenes, tmp_path: Path) -> None:
    path = rewritten(ours, tmp_path / "bag", change=shifted(20_000_000))
    with pytest.raises(
        BagError, match=r"no image of CAM_FRONT has the stamp of a key frame of v1.0-tiny, split 'tiny_val'"
    ):
        found_in(path, nusc)


def test_what_is_missing_is_said_before_anything_is_played(ours: Path, nusc: NuScenes) -> None:
    tokens = {sample.token for sample in found_in(ours, nusc)[0]}
    with pytest.raises(
        BagError, match=r"'tiny_val' cannot be scored: 3 of its key frames, of scene-drive, are not in s"
    ):
        check_covered(nusc, "tiny_val", tokens, [ours])
    check_covered(nusc, "tiny_val", {sample["token"] for sample in nusc.sample}, [ours])
