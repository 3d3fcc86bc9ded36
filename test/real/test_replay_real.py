import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from tiny_student import tiny_config

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.interface.topics import TopicMap
from bevdistill_ros.model.bevformer import BevFormer
from training.bag import messages
from training.bag.read_bag import Bag, poses_of, read_bag, samples_of
from training.bag.recording import read_recording
from training.bag.rig import rig_of
from training.bag.write_bag import write_bag
from training.replay.config import ReplayConfig
from training.replay.run import run_replay

pytestmark = pytest.mark.real

SIZE = (96, 160)


@pytest.fixture(scope="module")
def street(shared_data: Path) -> NuScenes:
    return NuScenes("v1.0-pandaset", str(shared_data / "pandaset-a"), verbose=False)


@pytest.fixture(scope="module")
def bag(street: NuScenes, tmp_path_factory: pytest.TempPathFactory) -> Bag:
    """Four seconds of six cameras and the LiDAR at 10 Hz."""
    output = tmp_path_factory.mktemp("bags") / "street"
    return read_bag(write_bag(street, "pandaset-002a", output, with_lidar=True, progress=False))


@pytest.fixture(scope="module")
def bundle(bag: Bag, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = tiny_config(
        grid=BevGrid(rows=16, cols=16),
        image_height=SIZE[0],
        image_width=SIZE[1],
        first_stride=16,
        embed_dim=16,
        num_queries=20,
    )
    rig = rig_of(bag, TopicMap(), NUSCENES_CAMERAS)
    intrinsics = rig.intrinsics.clone()
    intrinsics[:, :2] *= SIZE[1] / rig.image_sizes[0][1]
    scaled = CameraRig(names=rig.names, intrinsics=intrinsics, ego_from_camera=rig.ego_from_camera, image_size=SIZE)
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    save_bundle(path, BevFormer(config), name="tiny", version="1", rig=scaled, provenance={})
    return path


def test_every_frame_and_stamp_is_in_the_bag(street: NuScenes, bag: Bag) -> None:
    for camera in NUSCENES_CAMERAS:
        records = [record for record in street.sample_data if record["channel"] == camera]
        expected = {record["timestamp"] * 1000: record["filename"] for record in records}
        assert len(expected) == 40
        found = dict(bag.decoded(f"/{camera}/image_rect_compressed"))
        assert set(found) == set(expected)
        for stamp_ns, message in found.items():
            assert messages.stamp_of(message) == stamp_ns
        stamp_ns = max(found)
        file = Path(street.dataroot) / expected[stamp_ns]
        assert found[stamp_ns].data.tobytes() == file.read_bytes()
    assert bag.counts["/LIDAR_TOP"] == 40
    assert bag.counts["/odom"] == bag.counts["/tf"] == 280


def test_global_poses_come_back_to_the_micrometre(street: NuScenes, bag: Bag) -> None:
    origin = samples_of(bag)[0].global_from_map
    poses = poses_of(bag, TopicMap())
    for record in street.ego_pose:
        found = origin @ poses[record["timestamp"] * 1000]
        np.testing.assert_allclose(found[:3, 3], record["translation"], atol=1e-6)


def test_lidar_points_in_the_map_stay_where_they_are_in_the_world(street: NuScenes, bag: Bag) -> None:
    """Points that lie in a parked car's box by the tables lie in its marker by the bag."""
    sample = street.get("sample", samples_of(bag)[0].token)
    _, markers = next(bag.decoded("/markers/annotations"))
    annotations = [street.get("sample_annotation", token) for token in sample["anns"]]
    stamp_ns, cloud = next((s, c) for s, c in bag.decoded("/LIDAR_TOP") if s == sample["timestamp"] * 1000)
    lidar = street.get(
        "calibrated_sensor", street.get("sample_data", sample["data"]["LIDAR_TOP"])["calibrated_sensor_token"]
    )
    from bevdistill_ros.core.geometry import transform_from

    map_from_lidar = poses_of(bag, TopicMap())[stamp_ns] @ transform_from(lidar["rotation"], lidar["translation"])
    points = cloud.data.view("<f4").reshape(-1, 5)[:, :3].astype(float)
    points = points @ map_from_lidar[:3, :3].T + map_from_lidar[:3, 3]
    checked = 0
    for annotation, marker in zip(annotations, markers.markers[1:], strict=True):
        if annotation["num_lidar_pts"] < 50:
            continue
        box_from_map = np.linalg.inv(messages.matrix_of(marker.pose.position, marker.pose.orientation))
        local = points @ box_from_map[:3, :3].T + box_from_map[:3, 3]
        half = np.array([marker.scale.x, marker.scale.y, marker.scale.z]) / 2
        inside = int((np.abs(local) <= half).all(axis=1).sum())
        assert abs(inside - annotation["num_lidar_pts"]) <= 0.02 * annotation["num_lidar_pts"] + 1
        checked += 1
    assert checked > 5


@pytest.mark.ros
@pytest.mark.slow
def test_every_set_of_the_sequence_is_formed(bag: Bag, bundle: Path, tmp_path: Path) -> None:
    """Cameras fire 81 ms apart around the reference; paced by the node, so that a slow machine drops nothing."""
    config = ReplayConfig(
        bundle=bundle,
        output=tmp_path / "out",
        bags=(bag.path,),
        frames="all",
        pace="step",
        device="cpu",
        parameters={"num_threads": 1},
        progress=False,
    )
    report = run_replay(config)
    assert (report.sets_sent, report.sets_processed, report.sets_lost) == (40, 40, 0)
    assert report.drops == {}
    assert (report.samples, report.samples_unanswered) == (8, 0)
    recording = read_recording(tmp_path / "out" / "detections" / bag.path.name)
    assert all(80.0 < status.spread_ms < 100.0 for status in recording.statuses[1:])


@pytest.mark.ros
@pytest.mark.slow
def test_key_frames_are_scored_in_real_time(shared_data: Path, bundle: Path, tmp_path: Path) -> None:
    config = ReplayConfig(
        bundle=bundle,
        output=tmp_path / "out",
        root=shared_data / "pandaset-a",
        version="v1.0-pandaset",
        split="pandaset_val",
        device="cpu",
        parameters={"num_threads": 1},
        progress=False,
    )
    report = run_replay(config)
    assert (report.sets_sent, report.sets_processed) == (8, 8)
    assert report.metrics is not None
    assert report.metrics.num_samples == 8
    assert np.isfinite(report.metrics.nds)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["metrics"]["split"] == "pandaset_val"


@pytest.mark.ros
@pytest.mark.slow
def test_scenes_of_two_vehicles_get_a_node_each(shared_data: Path, bundle: Path, tmp_path: Path) -> None:
    config = ReplayConfig(
        bundle=bundle,
        output=tmp_path / "out",
        root=shared_data / "nuscenes-real",
        version="v1.0-real",
        split="real_val",
        scenes=("scene-0061", "scene-e7ef871f"),
        device="cpu",
        parameters={"num_threads": 1},
        progress=False,
    )
    report = run_replay(config)
    assert (report.sets_sent, report.sets_processed) == (2, 2)
    assert (report.samples, report.samples_unanswered) == (2, 0)
    assert report.metrics is not None
