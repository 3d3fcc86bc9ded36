"""The data pipeline on recorded sensor data; the numbers expected are those in the data's README."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion

from bevdistill_ros.core.boxes import corners_3d, points_in_boxes
from bevdistill_ros.core.geometry import invert_rigid, project_points, transform_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUSCENES_CAMERAS
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.fit import ImageTarget
from training.data.augment import BevAugment, BevAugmentConfig, Compose, RangeFilter
from training.data.dataset import NuScenesDataset, NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.sample import collate
from training.data.tables import open_tables
from training.evaluate.metrics import evaluate_detections, evaluate_results
from training.evaluate.results import Results, results_from

pytestmark = pytest.mark.real

DATABASES = {"nuscenes-real": "v1.0-real", "pandaset-a": "v1.0-pandaset"}
CEILINGS = [  # database, split, mAP, NDS, classes present
    ("nuscenes-real", "real_val", 0.500, 0.432, 5),
    ("nuscenes-real", "real_frame_a", 0.500, 0.432, 5),
    ("nuscenes-real", "real_frame_b", 0.300, 0.257, 3),
    ("pandaset-a", "pandaset_val", 0.600, 0.601, 6),
]


class Database:
    """Tables and index of one database, opened once."""

    def __init__(self, root: Path, version: str, cache_dir: Path) -> None:
        self.nusc: NuScenes = open_tables(root, version)
        self.index: NuScenesIndex = load_index(DataConfig(root=root, version=version, cache_dir=cache_dir))


@pytest.fixture(scope="module")
def databases(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Database]:
    cache = tmp_path_factory.mktemp("cache")
    return {name: Database(shared_data / name, version, cache) for name, version in DATABASES.items()}


def held_truth(index: NuScenesIndex, split: str) -> dict[str, Detections]:
    """Ground-truth boxes that hold points, as detections of score 1."""
    found = {}
    for sample in index.samples_of(split):
        chosen = index.boxes_of(sample)
        held = torch.tensor(index.num_lidar_points[chosen] > 0)
        found[index.token(sample)] = Detections(
            stamp_ns=int(index.stamps_ns[sample]),
            boxes=torch.tensor(index.boxes[chosen])[held],
            scores=torch.ones(int(held.sum())),
            labels=torch.tensor(index.labels[chosen])[held],
        )
    return found


def with_true_attributes(nusc: NuScenes, results: Results) -> Results:
    """Replace guessed attributes by those of the nearest annotation; a detector has no way to know them."""
    for token, boxes in results["results"].items():
        annotations = [nusc.get("sample_annotation", annotation) for annotation in nusc.get("sample", token)["anns"]]
        places = np.array([annotation["translation"] for annotation in annotations])
        for box in boxes:
            nearest = annotations[int(np.linalg.norm(places - box["translation"], axis=1).argmin())]
            names = [nusc.get("attribute", attribute)["name"] for attribute in nearest["attribute_tokens"]]
            box["attribute_name"] = names[0] if names else ""
    return results


@pytest.mark.parametrize(("name", "split", "mean_ap", "nds", "present"), CEILINGS)
def test_ground_truth_reaches_the_known_ceiling(
    databases: dict[str, Database], tmp_path: Path, name: str, split: str, mean_ap: float, nds: float, present: int
) -> None:
    database = databases[name]
    poses = database.index.poses_of(split)
    results = with_true_attributes(database.nusc, results_from(held_truth(database.index, split), poses))
    metrics = evaluate_results(database.nusc, results, split, tmp_path)
    assert metrics.mean_ap == pytest.approx(mean_ap, abs=5e-4)
    assert metrics.nds == pytest.approx(nds, abs=6e-4)
    found = [class_name for class_name in CLASS_NAMES if metrics.class_ap[class_name] > 0]
    assert len(found) == present
    for class_name in found:
        assert metrics.class_ap[class_name] == pytest.approx(1.0, abs=1e-6)
        errors = metrics.class_tp_errors[class_name]
        if name == "nuscenes-real":  # one frame a scene, so the devkit knows no velocity
            assert errors.pop("vel_err") in (None, 1.0)
        assert max(error for error in errors.values() if error is not None) < 2e-3


def test_guessed_attributes_are_right_where_velocity_is_known(databases: dict[str, Database], tmp_path: Path) -> None:
    database = databases["pandaset-a"]
    poses = database.index.poses_of("pandaset_val")
    truth = held_truth(database.index, "pandaset_val")
    metrics = evaluate_detections(database.nusc, truth, poses, "pandaset_val", tmp_path)
    assert metrics.class_tp_errors["car"]["attr_err"] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("name", DATABASES)
def test_corners_project_as_the_devkit_projects_them(databases: dict[str, Database], name: str) -> None:
    """Ours goes through the ego frame at the LiDAR stamp; theirs through the ego frame at the image's stamp.

    The devkit's boxes are upright in the global frame, ours in the ego frame. A tilt of the ego by an angle moves the
    corners of a box by up to half its diagonal times the angle; nothing else may differ.
    """
    nusc, index = databases[name].nusc, databases[name].index
    gaps = []
    for sample in range(len(index)):
        ego_from_global = invert_rigid(torch.tensor(index.global_from_ego[sample]))
        tilt = float(ego_from_global[2, :2].norm())
        record = nusc.get("sample", index.token(sample))
        annotations = [token for token in record["anns"] if _is_detection_class(nusc, token)]
        boxes = torch.tensor(index.boxes[index.boxes_of(sample)]).double()
        for camera, intrinsics, image_from_ego in zip(
            index.cameras, index.intrinsics[sample], _image_from_ego(index, sample), strict=True
        ):
            for box, annotation in zip(boxes, annotations, strict=True):
                theirs, depth = _devkit_corners(nusc, record["data"][camera], annotation)
                if depth.min() < 1.0 or np.abs(theirs).max() > 4000:
                    continue
                globally = torch.tensor(nusc.get_box(annotation).corners().T)
                exact, exact_depth = project_points(image_from_ego, transform_points(ego_from_global, globally))
                np.testing.assert_allclose(exact, theirs, atol=1e-3)
                np.testing.assert_allclose(exact_depth, depth, atol=1e-5)
                upright, _ = project_points(image_from_ego, corners_3d(box))
                gap = np.linalg.norm(upright.numpy()[:, None] - theirs[None], axis=-1).min(axis=1).max()
                slant = np.linalg.norm((theirs - intrinsics[:2, 2]) / intrinsics[0, 0], axis=1).max()
                reach = tilt * float(box[3:6].norm()) / 2
                assert gap < 0.05 + intrinsics[0, 0] * reach * np.hypot(1, slant) / depth.min(), (camera, annotation)
                gaps.append(gap)
    assert len(gaps) > 50


def _image_from_ego(index: NuScenesIndex, sample: int) -> torch.Tensor:
    return CameraRig(
        names=index.cameras,
        intrinsics=torch.tensor(index.intrinsics[sample]),
        ego_from_camera=torch.tensor(index.ego_from_camera[sample]),
        image_size=(900, 1600),
    ).image_from_ego()


def _is_detection_class(nusc: NuScenes, annotation: str) -> bool:
    return category_to_detection_name(nusc.get("sample_annotation", annotation)["category_name"]) is not None


def _devkit_corners(nusc: NuScenes, camera_data: str, annotation: str) -> tuple[np.ndarray, np.ndarray]:
    data = nusc.get("sample_data", camera_data)
    pose = nusc.get("ego_pose", data["ego_pose_token"])
    calibration = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
    box = nusc.get_box(annotation)
    for transform in (pose, calibration):
        box.translate(-np.array(transform["translation"]))
        box.rotate(Quaternion(transform["rotation"]).inverse)
    pixels = view_points(box.corners(), np.array(calibration["camera_intrinsic"]), normalize=True)
    return pixels[:2].T, box.corners()[2]


@pytest.mark.parametrize(
    ("name", "sample"), [("nuscenes-real", 0), ("nuscenes-real", 1), ("pandaset-a", 0), ("pandaset-a", 7)]
)
@pytest.mark.parametrize("num_sweeps", [0, 9])
def test_sweeps_accumulate_as_in_the_devkit(
    databases: dict[str, Database], name: str, sample: int, num_sweeps: int
) -> None:
    nusc, index = databases[name].nusc, databases[name].index
    split = {"nuscenes-real": "real_val", "pandaset-a": "pandaset_val"}[name]
    dataset = NuScenesDataset(
        index, split, target=ImageTarget(height=90, width=160), num_sweeps=num_sweeps, with_images=False
    )
    points = dataset[sample].points
    record = nusc.get("sample", dataset[sample].token)
    cloud, lags = LidarPointCloud.from_file_multisweep(nusc, record, "LIDAR_TOP", "LIDAR_TOP", nsweeps=num_sweeps + 1)
    lidar = nusc.get("sample_data", record["data"]["LIDAR_TOP"])
    calibration = nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])
    ego = Quaternion(calibration["rotation"]).rotation_matrix @ cloud.points[:3] + np.array(
        calibration["translation"]
    ).reshape(3, 1)
    assert len(points) == cloud.points.shape[1]
    np.testing.assert_allclose(points[:, :3].numpy(), ego.T, atol=1e-3)
    np.testing.assert_allclose(points[:, 3].numpy() * 255, cloud.points[3], atol=1e-3)
    np.testing.assert_allclose(points[:, 4].numpy(), lags[0], atol=1e-5)


@pytest.mark.parametrize("name", DATABASES)
def test_boxes_hold_the_points_that_the_tables_count(databases: dict[str, Database], name: str) -> None:
    """Ties LiDAR calibration, ego frame, box size order and the sign of yaw together."""
    index = databases[name].index
    split = {"nuscenes-real": "real_val", "pandaset-a": "pandaset_val"}[name]
    dataset = NuScenesDataset(index, split, target=ImageTarget(height=90, width=160), num_sweeps=0, with_images=False)
    for position in range(len(dataset)):
        sample = dataset[position]
        counted = points_in_boxes(sample.points[:, :3], sample.boxes).sum(dim=1)
        wanted = sample.num_lidar_points
        # Borders and float32 move a point or two.
        assert float(((counted - wanted).abs() <= 2 + 0.02 * wanted).float().mean()) > 0.97, position


def test_points_on_boxes_project_into_the_images_before_and_after_augmentation(databases: dict[str, Database]) -> None:
    index = databases["pandaset-a"].index
    grid = BevGrid()
    plain = NuScenesDataset(index, "pandaset_val", target=ImageTarget(height=128, width=352), clip_length=2)[5]
    augment = Compose(BevAugment(BevAugmentConfig()), RangeFilter(grid, min_lidar_points=0))
    torch.manual_seed(3)
    changed = NuScenesDataset(
        index, "pandaset_val", target=ImageTarget(height=128, width=352), clip_length=2, augment=augment
    )[5]
    torch.manual_seed(3)
    points = BevAugment(BevAugmentConfig())(plain).points
    before, _ = project_points(plain.cameras.image_from_ego[0], plain.points[None, :2000, :3])
    after, depth = project_points(changed.cameras.image_from_ego[0], points[None, :2000, :3])
    seen = (depth > 1) & (after[..., 0].abs() < 500) & (after[..., 1].abs() < 500)
    assert int(seen.sum()) > 1000
    torch.testing.assert_close(before[seen], after[seen], atol=0.05, rtol=0)
    assert torch.equal(plain.history[0].images, changed.history[0].images)


def test_every_sample_loads_and_collates(databases: dict[str, Database]) -> None:
    for name, split in (("nuscenes-real", "real_val"), ("pandaset-a", "pandaset_val")):
        dataset = NuScenesDataset(
            databases[name].index, split, target=ImageTarget(height=128, width=352), clip_length=2
        )
        batch = collate([dataset[0], dataset[1]])
        assert batch.cameras.images.shape == (2, len(NUSCENES_CAMERAS), 3, 128, 352)
        assert batch.cameras.valid.all()
        assert all(torch.isfinite(boxes[:, :7]).all() for boxes in batch.boxes)
        assert 20 < float(batch.cameras.images.float().mean()) < 200


def test_static_objects_stay_put_in_the_world(databases: dict[str, Database]) -> None:
    """Parked cars of PandaSet, carried from one key frame's ego frame into the next."""
    index = databases["pandaset-a"].index
    first, last = (torch.tensor(index.global_from_ego[sample]) for sample in (4, 7))
    last_from_first = invert_rigid(last) @ first
    still = [(index.boxes[chosen][:, 7:9] == 0).all(axis=1) for chosen in (index.boxes_of(4), index.boxes_of(7))]
    places = [
        torch.tensor(index.boxes[index.boxes_of(sample)][mask][:, :3]).double()
        for sample, mask in zip((4, 7), still, strict=True)
    ]
    moved = transform_points(last_from_first, places[0])
    nearest = torch.cdist(moved, places[1]).min(dim=1).values
    assert len(nearest) > 20
    assert float(nearest.median()) < 0.05
    assert float(torch.cdist(places[0], places[1]).min(dim=1).values.median()) > 0.5
