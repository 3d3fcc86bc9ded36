"""Classes, rig, frames and detections: what they hold, and what they refuse."""

import math
from dataclasses import replace

import pytest
import torch
from nuscenes.eval.common.config import config_factory

from bevdistill_ros.core.nuscenes import CLASS_NAMES, CLASS_RANGES, attribute_of
from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig, VehicleRig


def make_rig(count: int = 2) -> CameraRig:
    intrinsics = torch.tensor([[100.0, 0, 16], [0, 100, 8], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    names = tuple(f"CAM_{number}" for number in range(count))
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    return CameraRig(names=names, intrinsics=intrinsics, ego_from_camera=poses, image_size=(16, 32))


def make_detections(scores: list[float]) -> Detections:
    count = len(scores)
    boxes = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 9)
    return Detections(stamp_ns=5, boxes=boxes, scores=torch.tensor(scores), labels=torch.arange(count))


def test_classes_are_those_that_the_devkit_scores() -> None:
    config = config_factory("detection_cvpr_2019")
    assert set(CLASS_NAMES) == set(config.class_names)
    assert config.class_range == CLASS_RANGES


@pytest.mark.parametrize(
    ("name", "speed", "attribute"),
    [
        ("car", 0.2, "vehicle.parked"),
        ("bus", 5.0, "vehicle.moving"),
        ("bicycle", 3.0, "cycle.with_rider"),
        ("pedestrian", 0.0, "pedestrian.standing"),
        ("barrier", 0.0, ""),
    ],
)
def test_attribute_follows_from_class_and_speed(name: str, speed: float, attribute: str) -> None:
    assert attribute_of(name, speed) == attribute


def test_unknown_class_has_no_attribute() -> None:
    with pytest.raises(ValueError, match="unknown class 'dog'"):
        attribute_of("dog", 1.0)


def test_rig_round_trip_through_plain_values() -> None:
    rig = make_rig()
    again = CameraRig.from_dict(rig.to_dict())
    assert again.names == rig.names
    assert again.image_size == rig.image_size
    torch.testing.assert_close(again.intrinsics, rig.intrinsics)
    torch.testing.assert_close(again.ego_from_camera, rig.ego_from_camera)


def test_rig_selects_by_name_in_the_order_asked_for() -> None:
    chosen = make_rig(3).select(["CAM_2", "CAM_0"])
    assert chosen.names == ("CAM_2", "CAM_0")
    assert chosen.ego_from_camera[:, 0, 3].tolist() == [2.0, 0.0]
    with pytest.raises(ValueError, match="no camera CAM_9"):
        make_rig().select(["CAM_9"])


def test_rig_names_the_camera_without_calibration() -> None:
    rig = make_rig()
    broken = rig.intrinsics.clone()
    broken[1, 0, 0] = math.nan
    with pytest.raises(ValueError, match="CAM_1 is not finite"):
        replace(rig, intrinsics=broken)
    with pytest.raises(ValueError, match="focal length of CAM_0, CAM_1 is not positive"):
        replace(rig, intrinsics=torch.zeros_like(rig.intrinsics))


def test_cameras_of_a_vehicle_may_differ_in_size() -> None:
    plain = make_rig().to_dict()
    plain["cameras"][1]["image_size"] = [20, 40]
    rig = VehicleRig.from_dict(plain)
    assert rig.image_sizes == ((16, 32), (20, 40))
    assert VehicleRig.from_dict(rig.to_dict()).image_sizes == rig.image_sizes
    assert rig.select(["CAM_1"]).image_sizes == ((20, 40),)
    with pytest.raises(ValueError, match="must be of one size, but are CAM_0 32x16, CAM_1 40x20"):
        CameraRig.from_dict(plain)
    del plain["image_size"]
    with pytest.raises(ValueError, match="lacks or misspells 'image_size'"):
        VehicleRig.from_dict(plain)


def test_misspelt_rig_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks or misspells 'cameras'"):
        CameraRig.from_dict({"image_size": [1, 2]})


def test_frame_refuses_images_of_another_size() -> None:
    rig = make_rig()
    frame = CameraFrame(
        stamp_ns=1,
        images=torch.zeros(2, 3, 16, 32, dtype=torch.uint8),
        rig=rig,
        global_from_ego=torch.eye(4),
        valid=torch.ones(2, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match=r"images must be uint8 \(2, 3, 16, 32\)"):
        replace(frame, images=torch.zeros(2, 3, 16, 31, dtype=torch.uint8))
    with pytest.raises(ValueError, match="valid must be bool"):
        replace(frame, valid=torch.ones(2))


def test_detections_above_a_threshold_by_falling_score() -> None:
    kept = make_detections([0.2, 0.9, 0.5, 0.1]).above(0.2, at_most=2)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5])
    assert kept.labels.tolist() == [1, 2]
    assert kept.boxes[:, 0].tolist() == [1.0, 2.0]


def test_detections_refuse_labels_that_are_no_class() -> None:
    detections = make_detections([0.5])
    with pytest.raises(ValueError, match=r"labels must be in 0...9, but span 10...10"):
        replace(detections, labels=torch.tensor([10]))


def test_no_detections_and_detections_on_the_cpu() -> None:
    assert len(Detections.empty(7).boxes) == 0
    assert Detections.empty(7).stamp_ns == 7
    found = make_detections([0.5, 0.25])
    assert found.cpu().scores.tolist() == found.scores.tolist()
