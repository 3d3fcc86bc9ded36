import contextlib
import json
import shutil
import subprocess
import sys
import time

from bevdistill_ros.core.lock import locked_folder
from training.synth.overwrite import MARK

"""The data set on disk, read back by the nuScenes devkit."""

import filecmp
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points

from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUSCENES_CAMERAS
from bevdistill_ros.core.records import Detections
from training.data.dataset import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.schema import ATTRIBUTES, CATEGORIES, token_of
from training.data.tables import open_tables
from training.evaluate.metrics import evaluate_detections
from training.synth import writer
from training.synth.config import SynthConfig
from training.synth.rays import RayCaster, Surfaces
from training.synth.recorder import _may_show
from training.synth.render import camera_rays
from training.synth.rig import nuscenes_cameras
from training.synth.world import make_world, moving, resting
from training.synth.writer import write_world

TABLES = {
    *("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose"),
    *("log", "scene", "sample", "sample_data", "sample_annotation", "map"),
}
TINY = SynthConfig(
    root=Path("unused"),
    seed=11,
    num_train_scenes=1,
    num_tune_scenes=0,
    num_val_scenes=1,
    frames_per_scene=3,
    image_width=96,
    image_height=54,
    lidar_columns=240,
    num_workers=1,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(replace(TINY, root=tmp_path_factory.mktemp("synth") / "world"), progress=False)


@pytest.fixture(scope="module")
def nusc(root: Path) -> NuScenes:
    return NuScenes(TINY.version, str(root), verbose=False)


def test_tables_and_files_are_complete(root: Path, nusc: NuScenes) -> None:
    folder = root / TINY.version
    assert {path.stem for path in folder.glob("*.json")} == TABLES | {"splits", "synth"}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.parts[-3] in ("samples", "sweeps")}
    assert files == {row["filename"] for row in nusc.sample_data}
    assert json.loads((folder / "splits.json").read_text()) == {
        "synth_train": ["synth-0000"],
        "synth_val": ["synth-0001"],
    }
    for row in nusc.sample_data:
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
    assert not list(root.parent.glob(".*"))


def test_categories_and_attributes_are_those_of_nuscenes(nusc: NuScenes) -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 23
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 8
    assert {category_to_detection_name(name) for name in CATEGORIES} - {None} == set(CLASS_NAMES)
    named = {category_to_detection_name(row["category_name"]) for row in nusc.sample_annotation}
    assert len(named) >= 8


def test_every_sample_has_all_sensors_near_its_stamp(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        stamps = []
        token = scene["first_sample_token"]
        while token:
            sample = nusc.get("sample", token)
            stamps.append(sample["timestamp"])
            assert set(sample["data"]) == {"LIDAR_TOP", *NUSCENES_CAMERAS}
            for channel, data_token in sample["data"].items():
                data = nusc.get("sample_data", data_token)
                assert abs(data["timestamp"] - sample["timestamp"]) <= 20_000
                if channel in ("LIDAR_TOP", "CAM_FRONT"):
                    assert data["timestamp"] == sample["timestamp"]
                assert nusc.get("ego_pose", data["ego_pose_token"])["timestamp"] == data["timestamp"]
            token = sample["next"]
        np.testing.assert_array_equal(np.diff(stamps), 500_000)
        assert len(stamps) == TINY.frames_per_scene == scene["nbr_samples"]


def test_sweeps_come_at_ten_hertz_and_lead_up_to_each_key_frame(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        last = nusc.get("sample", scene["last_sample_token"])
        data = nusc.get("sample_data", last["data"]["LIDAR_TOP"])
        chain = [data]
        while data["prev"]:
            data = nusc.get("sample_data", data["prev"])
            chain.append(data)
        np.testing.assert_array_equal(np.diff([row["timestamp"] for row in chain]), -100_000)
        assert len(chain) == 5 * TINY.frames_per_scene  # four before each key frame, the first one too
        for row in chain:
            sample = nusc.get("sample", row["sample_token"])
            assert 0 <= sample["timestamp"] - row["timestamp"] <= 400_000


def test_num_lidar_pts_are_the_points_in_the_box(nusc: NuScenes) -> None:
    """Counted by who was hit; checked by geometry, with room for the range noise of 2 cm."""
    checked = 0
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(path)
        for box in boxes:
            count = nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            grown, shrunk = box.copy(), box.copy()
            grown.wlh, shrunk.wlh = box.wlh + 0.2, np.maximum(box.wlh - 0.2, 1e-3)
            # The crown of a tree at the kerb may hang into a box.
            assert points_in_box(shrunk, cloud.points[:3]).sum() <= 1.05 * count + 2
            assert points_in_box(grown, cloud.points[:3]).sum() >= count
            checked += count > 20
    assert checked > 10


def test_boxes_project_onto_their_objects(nusc: NuScenes) -> None:
    """The scene is drawn again; its pixel owners are compared with the devkit's projection of the boxes on disk."""
    solid = (
        "vehicle.car",
        "vehicle.bus.rigid",
        "vehicle.truck",
        "movable_object.barrier",
        "movable_object.trafficcone",
    )
    world = make_world(np.random.default_rng((TINY.seed, 0)), duration=TINY.duration)
    actors = {token_of(f"{TINY.seed}/0", "instance", index): index for index in range(len(world.actors))}
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    still = Surfaces(resting(world))
    hit = total = 0
    for camera in nuscenes_cameras(width=TINY.image_width, height=TINY.image_height):
        time = camera.delay_us * 1e-6
        path, boxes, intrinsics = nusc.get_sample_data(sample["data"][camera.name])
        assert cv2.imread(str(path)).shape == (TINY.image_height, TINY.image_width, 3)
        caster = RayCaster(still, Surfaces(moving(world, time, 90.0)))
        for box in boxes:
            row = nusc.get("sample_annotation", box.token)
            pixel = view_points(box.center[:, None], intrinsics, normalize=True)[:2].T
            inside = (pixel > 0).all() and (pixel < [TINY.image_width - 1, TINY.image_height - 1]).all()
            if box.name in solid and row["visibility_token"] == "4" and box.center[2] > 1 and inside:
                hits = caster.cast(*camera_rays(camera, world.ego_pose(time), pixel))
                hit += caster.owners_of(hits)[0] == actors[row["instance_token"]] + 1
                total += 1
    assert total >= 8
    assert hit >= 0.85 * total


def test_what_a_camera_cannot_show_is_not_probed() -> None:
    """A ball is passed over only if no point of it falls into the image."""
    rng = np.random.default_rng(0)
    passed = 0
    for camera in nuscenes_cameras(width=160, height=90)[:2]:
        for centre in rng.uniform(-12, 12, (400, 3)):
            radius = float(rng.uniform(0.2, 4.0))
            if _may_show(camera, centre, radius):
                continue
            passed += 1
            directions = rng.normal(size=(60, 3))
            points = centre + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
            points = points[points[:, 2] > 0.01]
            pixels = points @ camera.intrinsics.T
            pixels = np.rint(pixels[:, :2] / pixels[:, 2:])
            assert not ((pixels >= 0) & (pixels < [160, 90])).all(axis=1).any()
    assert passed > 200


def test_annotations_are_seen_and_within_reach(nusc: NuScenes) -> None:
    levels = {row["level"] for row in nusc.visibility}
    assert levels == {"v0-40", "v40-60", "v60-80", "v80-100"}
    used = set()
    for row in nusc.sample_annotation:
        sample = nusc.get("sample", row["sample_token"])
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = nusc.get("ego_pose", lidar["ego_pose_token"])
        assert np.linalg.norm(np.subtract(row["translation"], ego["translation"])[:2]) <= TINY.annotation_range
        assert len(row["attribute_tokens"]) == (not row["category_name"].startswith("movable_object"))
        used.add(row["visibility_token"])
    assert used == {"1", "2", "3", "4"}


def test_instances_are_chains_and_give_velocities(nusc: NuScenes) -> None:
    moving = 0
    for instance in nusc.instance:
        token, length = instance["first_annotation_token"], 0
        while token:
            row = nusc.get("sample_annotation", token)
            assert row["instance_token"] == instance["token"]
            last, token, length = token, row["next"], length + 1
            attribute = nusc.get("attribute", row["attribute_tokens"][0])["name"] if row["attribute_tokens"] else ""
            speed = np.linalg.norm(nusc.box_velocity(last)[:2])
            if np.isfinite(speed) and attribute.endswith(("parked", "standing", "without_rider")):
                assert speed < 0.5  # they may just have come to rest
            moving += bool(attribute == "vehicle.moving" and speed > 1.0)
        assert last == instance["last_annotation_token"]
        assert length == instance["nbr_annotations"]
    assert moving > 5


def scored_boxes(index: NuScenesIndex, sample: int) -> np.ndarray:
    """Rows of the sample's boxes; the devkit leaves out those without LiDAR points."""
    rows = np.arange(len(index.boxes))[index.boxes_of(sample)]
    return rows[index.num_lidar_points[rows] > 0]


def test_ground_truth_scores_one(root: Path, tmp_path: Path) -> None:
    nusc = open_tables(root, TINY.version)
    index = load_index(DataConfig(root=root, version=TINY.version, cache_dir=tmp_path / "cache"))
    truth = {
        index.token(sample): Detections(
            stamp_ns=int(index.stamps_ns[sample]),
            boxes=torch.tensor(index.boxes[scored_boxes(index, sample)]),
            scores=torch.ones(len(index.labels[scored_boxes(index, sample)])),
            labels=torch.tensor(index.labels[scored_boxes(index, sample)]),
        )
        for sample in index.samples_of("synth_val")
    }
    metrics = evaluate_detections(nusc, truth, index.poses_of("synth_val"), "synth_val", tmp_path / "out")
    scored = {name: ap for name, ap in metrics.class_ap.items() if ap > 0}
    assert len(scored) >= 8
    assert scored == {name: pytest.approx(1.0) for name in scored}


def test_second_writing_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    assert_same_bytes(root, write_world(replace(TINY, root=tmp_path / "again"), progress=False))


@pytest.mark.slow
def test_number_of_processes_does_not_matter(root: Path, tmp_path: Path) -> None:
    assert_same_bytes(root, write_world(replace(TINY, root=tmp_path / "two", num_workers=2), progress=False))


def assert_same_bytes(first: Path, second: Path) -> None:
    names = sorted(path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second).as_posix() for path in second.rglob("*") if path.is_file())
    _, differing, failed = filecmp.cmpfiles(first, second, names, shallow=False)
    assert not differing
    assert not failed


def test_existing_root_is_kept(root: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite"):
        write_world(replace(TINY, root=root), progress=False)
    assert (root / TINY.version / "scene.json").exists()


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writer, "_record_scene", fail)
    with pytest.raises(OSError, match="disk full"):
        write_world(replace(TINY, root=tmp_path / "world"), progress=False)
    assert not list(tmp_path.iterdir())


def test_splits_partition_the_scenes() -> None:
    config = replace(TINY, num_train_scenes=3, num_tune_scenes=2, num_val_scenes=1)
    assert config.splits() == {"synth_train": [0, 1, 2], "synth_tune": [3, 4], "synth_val": [5]}
    assert token_of("a", 1) == token_of("a", 1) != token_of("a", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_height": 100}, "9/16"),
        ({"lidar_rate_hz": 7}, "multiple of 2"),
        ({"camera_rate_hz": 0}, "multiple of 2"),
        ({"num_train_scenes": 0, "num_val_scenes": 0}, "at least one scene"),
        ({"lidar_dropout": 1.0}, "lidar_dropout"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"frames_per_scene": 0}, "frames_per_scene"),
        ({"seed": -1}, "seed"),
    ],
)
def test_configuration_is_checked(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "world")


def test_a_data_set_of_ours_is_replaced_whole(copied: Path) -> None:
    (copied / ".bevdistill_cache").mkdir()
    (copied / ".bevdistill_cache" / "index.npz").write_bytes(b"x")
    write_world(replace(TINY, root=copied, seed=5, overwrite=True), progress=False)
    assert json.loads((copied / TINY.version / MARK).read_text())["seed"] == 5
    assert sorted(path.name for path in copied.parent.iterdir()) == ["world"]
    assert not (copied / ".bevdistill_cache").exists()


@pytest.mark.parametrize(
    "name", ["notes.txt", "samples/CAM_FRONT/mine.jpg", "samples/CAM_FRONT/n015__CAM_FRONT__1.jpg"]
)
def test_a_folder_with_other_files_is_not_replaced(copied: Path, name: str) -> None:
    (copied / name).write_text("mine")
    with pytest.raises(ValueError, match="holds files that no synthetic data set has"):
        write_world(replace(TINY, root=copied, overwrite=True), progress=False)
    assert (copied / name).read_text() == "mine"
    assert (copied / TINY.version / "scene.json").exists()


def test_another_data_set_is_not_replaced(tmp_path: Path) -> None:
    """The tables of nuScenes alone, before the sensor files are unpacked."""
    (tmp_path / "nuscenes" / "v1.0-trainval").mkdir(parents=True)
    (tmp_path / "nuscenes" / "v1.0-trainval" / "scene.json").write_text("[]")
    with pytest.raises(ValueError, match=r"has no synth\.json beside its tables"):
        write_world(replace(TINY, root=tmp_path / "nuscenes", overwrite=True), progress=False)
    (tmp_path / "link").symlink_to(tmp_path / "nuscenes")
    with pytest.raises(ValueError, match="link is not a folder"):
        write_world(replace(TINY, root=tmp_path / "link", overwrite=True), progress=False)


def test_a_data_set_has_one_writer(tmp_path: Path) -> None:
    (tmp_path / ".world.partial" / "left").mkdir(parents=True)  # by a run that was killed
    with (
        locked_folder(tmp_path / ".world.partial"),
        pytest.raises(ValueError, match=r"world\.partial is in use by another process"),
    ):
        write_world(replace(TINY, root=tmp_path / "world"), progress=False)
    assert (tmp_path / ".world.partial" / "left").is_dir()
    write_world(replace(TINY, root=tmp_path / "world"), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


@pytest.mark.slow
def test_workers_end_with_a_killed_process(tmp_path: Path) -> None:
    settings = ["--num_train_scenes=2", "--num_tune_scenes=0", "--num_val_scenes=0", "--frames_per_scene=40"]
    command = [sys.executable, "-m", "training", "synth", f"--root={tmp_path / 'world'}", *settings]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len([path for path in (tmp_path / ".world.partial").rglob("*") if path.is_file()]) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while living := [pid for pid in _session(process.pid) if pid != process.pid]:
        assert time.monotonic() < deadline, living
        time.sleep(0.1)


def _session(number: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(path.parent.name))
    return found
