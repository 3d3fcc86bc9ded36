"""Whether two data sets in nuScenes format hold the same recording."""

from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes

from bevdistill_ros.core.geometry import transform_from
from training.data.schema import stamp_ns_of
from training.synth.config import SynthConfig

_SAME_OF_BOXES = ("instance_token", "sample_token", "category_name", "num_lidar_pts", "num_radar_pts", "prev", "next")
_SAME = ("is_key_frame", "height", "width", "channel")


def transform_of(row: dict[str, Any]) -> np.ndarray:
    return transform_from(row["rotation"], row["translation"])


def frames_of(nusc: NuScenes) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows of images and sweeps by scene, channel and stamp [ns]."""
    found = {}
    for row in nusc.sample_data:
        sample = nusc.get("sample", row["sample_token"])
        scene = nusc.get("scene", sample["scene_token"])["name"]
        found[scene, row["channel"], stamp_ns_of(row)] = row
    return found


def assert_same_frames(first: NuScenes, second: NuScenes) -> None:
    """The same images and sweeps, byte for byte, at the same nanosecond, at the same places."""
    ours, theirs = frames_of(first), frames_of(second)
    assert set(ours) == set(theirs)
    for key, row in ours.items():
        other = theirs[key]
        assert [row[name] for name in _SAME] == [other[name] for name in _SAME]
        files = [Path(nusc.dataroot) / entry["filename"] for nusc, entry in ((first, row), (second, other))]
        assert files[0].read_bytes() == files[1].read_bytes(), key
        for table, name in (("ego_pose", "ego_pose_token"), ("calibrated_sensor", "calibrated_sensor_token")):
            records = [nusc.get(table, entry[name]) for nusc, entry in ((first, row), (second, other))]
            np.testing.assert_allclose(transform_of(records[0]), transform_of(records[1]), rtol=0, atol=1e-6)
        assert stamp_ns_of(first.get("ego_pose", row["ego_pose_token"])) == key[2]
        matrices = [record["camera_intrinsic"] for record in records]
        np.testing.assert_array_equal(matrices[0], matrices[1])


def assert_same_samples(first: NuScenes, second: NuScenes) -> None:
    """The same samples with the same boxes of the same objects."""
    samples = {row["token"]: row for row in second.sample}
    assert {row["token"] for row in first.sample} == set(samples)
    for row in first.sample:
        other = samples[row["token"]]
        assert (row["timestamp"], row["prev"], row["next"]) == (other["timestamp"], other["prev"], other["next"])
        assert set(row["anns"]) == set(other["anns"])
        assert row.get("annotated", True) == other.get("annotated", True)
        assert set(row["data"]) == set(other["data"])
    for row in first.sample_annotation:
        other = second.get("sample_annotation", row["token"])
        for name in (
            "instance_token",
            "sample_token",
            "category_name",
            "num_lidar_pts",
            "num_radar_pts",
            "prev",
            "next",
        ):
            assert row[name] == other[name], name
        for name in ("translation", "size", "rotation"):
            np.testing.assert_allclose(row[name], other[name], rtol=0, atol=1e-6)
        names = [
            [nusc.get("attribute", token)["name"] for token in entry["attribute_tokens"]]
            for nusc, entry in ((first, row), (second, other))
        ]
        assert names[0] == names[1]
        levels = [
            nusc.get("visibility", entry["visibility_token"])["level"]
            for nusc, entry in ((first, row), (second, other))
        ]
        assert levels[0] == levels[1]
        velocities = [nusc.box_velocity(row["token"]) for nusc in (first, second)]
        np.testing.assert_allclose(velocities[0], velocities[1], atol=1e-6)


def tiny_world() -> SynthConfig:
    """Two scenes of three key frames, with images and sweeps between them."""
    return SynthConfig(
        root=Path("unused"),
        seed=5,
        num_train_scenes=1,
        num_tune_scenes=0,
        num_val_scenes=1,
        frames_per_scene=3,
        image_width=96,
        image_height=54,
        camera_rate_hz=4,
        lidar_columns=180,
        num_workers=1,
    )
