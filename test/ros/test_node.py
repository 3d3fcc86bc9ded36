"""The real node in a process of its own, with random weights, over real middleware, when all is well."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Shared
    from vehicle import Vehicle

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.qos import QoSReliabilityPolicy
from std_srvs.srv import Trigger
from tiny_model import (
    CAMERAS,
    INPUT,
    MS,
    SIZE,
    assert_same,
    decoded,
    jpeg_of,
    offline,
    picture,
    tiny_rig,
    write_bundle,
)
from vehicle import jpeg, jpegs, raws

from bevdistill_ros.inference.decode import decode_image
from bevdistill_ros.node.sync.filters import HAS_MESSAGE_FILTERS


def images(seed: int) -> list[np.ndarray]:
    return [decoded(seed + place) for place in range(3)]


def test_detections_are_those_of_the_engine(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    stamps = [stamp + k * 500 * MS for k in range(3)]
    found = [skipping.detect(at, jpegs(10 * k)) for k, at in enumerate(stamps)]
    rounds = [(at, images(10 * k)) for k, at in enumerate(stamps)]
    expected = offline(bundle, rounds)
    for message, detections in zip(found, expected, strict=True):
        assert_same(message, detections)
        assert message.header.frame_id == "base_link"
        assert message.model == "tiny 1"
    # The memory plays its part, else this test would say nothing about it.
    assert (offline(bundle, rounds[1:])[0].scores - expected[1].scores).abs().max() > 1e-5


def test_status_tells_all_stages(skipping: "Vehicle", stamp: int) -> None:
    skipping.detect(stamp, jpegs())
    status = skipping.status(stamp)
    assert list(status.cameras) == list(CAMERAS)
    assert list(status.present) == [True] * 3
    assert status.spread_ms == pytest.approx(20.0)
    stages = ["transport_age", "wait", "decode", "preprocess", "inference", "postprocess", "publish"]
    assert list(status.stages) == stages
    assert np.isnan(status.stage_ms[0])  # stamps of another clock have no age
    assert np.isnan(status.latency_ms)
    assert all(value >= 0 for value in status.stage_ms[1:])
    assert status.sets_processed >= 1


def test_latency_is_known_for_stamps_of_this_clock(skipping: "Vehicle") -> None:
    now = time.time_ns()
    # The vehicle's next stamps are of another year: the node must take the jump either way.
    skipping.detect(now, jpegs())
    status = skipping.status(now)
    assert 0 < status.latency_ms < 60_000
    assert status.latency_ms >= sum(status.stage_ms[1:-1])
    assert status.latency_ms == pytest.approx(max(status.age_ms))


def test_markers_are_those_of_the_detections(skipping: "Vehicle", stamp: int) -> None:
    message = skipping.detect(stamp, jpegs())
    assert skipping.wait_until(lambda: stamp in skipping.markers)
    boxes = [marker for marker in skipping.markers[stamp].markers if marker.ns == "boxes"]
    assert [marker.id for marker in boxes] == list(range(len(message.detections)))
    assert boxes[0].header == message.header


def test_overlay_is_drawn_only_while_somebody_looks(skipping: "Vehicle", stamp: int) -> None:
    skipping.look()
    topic = f"{skipping.name}/output/overlay/compressed"
    assert skipping.wait_until(lambda: skipping.node.count_publishers(topic))
    skipping.rest(0.5)
    skipping.detect(stamp, jpegs())
    assert skipping.wait_until(lambda: stamp in skipping.overlay)
    image = cv2.imdecode(np.frombuffer(skipping.overlay[stamp].data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    skipping.look_away()


def test_raw_images(blanking: "Vehicle", bundle: Path, stamp: int) -> None:
    message = blanking.detect(stamp, raws(5))
    assert_same(message, offline(bundle, [(stamp, [picture(5 + place) for place in range(3)])])[0])


def test_best_effort_is_the_default_and_can_be_overridden(blanking: "Vehicle") -> None:
    for camera in CAMERAS:
        found = blanking.node.get_subscriptions_info_by_topic(f"{blanking.name}/input/{camera}/image")
        reliable = QoSReliabilityPolicy.RELIABLE if camera == "RIGHT" else QoSReliabilityPolicy.BEST_EFFORT
        assert [entry.qos_profile.reliability for entry in found] == [reliable]


def test_reset_service_empties_the_memory(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    skipping.detect(stamp, jpegs(1))
    assert skipping.call(Trigger, "reset", Trigger.Request()).success
    message = skipping.detect(stamp + 500 * MS, jpegs(2))
    assert_same(message, offline(bundle, [(stamp + 500 * MS, images(2))])[0])


def test_threshold_changes_while_running(skipping: "Vehicle", stamp: int) -> None:
    scores = [element.score for element in skipping.detect(stamp, jpegs()).detections]
    assert scores == sorted(scores, reverse=True)
    (result,) = skipping.set_parameters(score_threshold=(scores[2] + scores[3]) / 2)
    assert result.successful
    try:
        assert len(skipping.detect(stamp + 10_000 * MS, jpegs()).detections) == 3
        (refused,) = skipping.set_parameters(score_threshold=1.5)
        assert not refused.successful
        assert "score_threshold" in refused.reason
    finally:
        skipping.set_parameters(score_threshold=0.0)


def test_other_parameters_do_not_change_while_running(skipping: "Vehicle") -> None:
    (result,) = skipping.set_parameters(transport="raw")
    assert not result.successful
    assert "clean up" in result.reason


def test_deactivate_and_activate_again(skipping: "Vehicle", stamp: int) -> None:
    assert skipping.change_state("deactivate")
    skipping.send_set(stamp, jpegs())
    skipping.rest(0.5)
    assert stamp not in skipping.detections
    assert skipping.change_state("activate")
    skipping.connect()
    skipping.detect(stamp + 1000 * MS, jpegs())
    assert skipping.status(stamp + 1000 * MS).sets_processed == 1


def test_one_camera_is_enough(shared: "Shared", tmp_path: Path, stamp: int) -> None:
    alone = write_bundle(tmp_path / "alone", ("FRONT",))
    vehicle = shared.use(bundle=str(alone), cameras=["FRONT"])
    message = vehicle.detect(stamp, {"FRONT": jpeg(7)})
    assert_same(message, offline(alone, [(stamp, [decoded(7)])], cameras=("FRONT",))[0])


def test_calibration_of_another_image_size_is_scaled(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    twice = tiny_rig((2 * SIZE[0], 2 * SIZE[1]))
    fields = {"height": 2 * SIZE[0], "width": 2 * SIZE[1], "k": twice.intrinsics[0].flatten().tolist()}
    skipping.calibrate(stamp, **fields)
    message = skipping.detect(stamp, jpegs(3), calibrations=dict.fromkeys(CAMERAS, fields))
    skipping.calibrate(stamp)
    nominal = {"nominal_width": 2 * SIZE[1], "width": INPUT[1]}
    pixels = [decode_image(jpeg_of(3 + place), **nominal) for place in range(3)]
    assert_same(message, offline(bundle, [(stamp, pixels)], rig=twice)[0])


def test_lens_distortion_is_undone(blanking: "Vehicle", bundle: Path, stamp: int) -> None:
    lens = [-0.2, 0.05, 0.001, -0.002, 0.0]
    blanking.calibrate(stamp, d=lens)
    message = blanking.detect(stamp, raws(3), calibrations={name: {"d": lens} for name in CAMERAS})
    blanking.calibrate(stamp)
    matrix = tiny_rig(SIZE).intrinsics[0].numpy()
    pixels = [cv2.undistort(picture(3 + place), matrix, np.array(lens)) for place in range(3)]
    assert_same(message, offline(bundle, [(stamp, pixels)])[0])


def test_a_new_calibration_resets_the_memory(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    skipping.calibrate(stamp)
    skipping.detect(stamp, jpegs(1))
    rig = tiny_rig(SIZE)
    rig.intrinsics[:, 0, 0] *= 1.05
    fields = {"k": rig.intrinsics[0].flatten().tolist()}
    skipping.calibrate(stamp, **fields)
    message = skipping.detect(stamp + 500 * MS, jpegs(2), calibrations=dict.fromkeys(CAMERAS, fields))
    skipping.calibrate(stamp)
    assert_same(message, offline(bundle, [(stamp + 500 * MS, images(2))], rig=rig)[0])


def test_foreign_focal_length_is_told(skipping: "Vehicle", stamp: int) -> None:
    matrix = tiny_rig(SIZE).intrinsics[0].clone()
    matrix[0, 0] *= 2
    fields = {"k": matrix.flatten().tolist()}
    skipping.calibrate(stamp, **fields)
    skipping.detect(stamp, jpegs(), calibrations=dict.fromkeys(CAMERAS, fields))
    assert skipping.wait_until(
        lambda: "FRONT sees 45 degrees, the model was trained on 80" in skipping.said("calibration")
    )
    skipping.calibrate(stamp)
    skipping.detect(stamp + 500 * MS, jpegs())
    assert skipping.wait_until(lambda: "trained" not in skipping.said("calibration"))


def test_cameras_that_show_no_road_are_reported(skipping: "Vehicle", stamp: int) -> None:
    """By their principal point they look into the sky, so the network would see nothing where objects are."""
    matrix = tiny_rig(SIZE).intrinsics[0].clone()
    matrix[1, 2] = 1000.0
    fields = {"k": matrix.flatten().tolist()}
    skipping.calibrate(stamp, **fields)
    skipping.detect(stamp, jpegs(), calibrations=dict.fromkeys(CAMERAS, fields))
    assert skipping.wait_until(
        lambda: "FRONT shows no objects 3 to 50 m away (96x64 scaled" in skipping.said("calibration")
    )
    skipping.calibrate(stamp)
    skipping.detect(stamp + 500 * MS, jpegs())
    assert skipping.wait_until(lambda: "shows no objects" not in skipping.said("calibration"))


@pytest.mark.skipif(not HAS_MESSAGE_FILTERS, reason="message_filters comes with a ROS distribution")
def test_stock_synchronizer(shared: "Shared", bundle: Path, stamp: int) -> None:
    vehicle = shared.use(sync__policy="approximate_time")
    message = vehicle.detect(stamp, jpegs(4))
    assert_same(message, offline(bundle, [(stamp, images(4))])[0])
    vehicle.detect(stamp - 3600_000 * MS, jpegs(5))


@pytest.mark.skipif(HAS_MESSAGE_FILTERS, reason="message_filters is installed")
def test_stock_synchronizer_is_refused_where_it_is_not_installed(shared: "Shared") -> None:
    vehicle = shared.use()
    assert vehicle.change_state("deactivate")
    assert vehicle.change_state("cleanup")
    shared.forget()
    vehicle.set_parameters(sync__policy="approximate_time")
    assert not vehicle.change_state("configure")
    reason = "cannot configure: sync.policy approximate_time needs the ROS package message_filters"
    assert vehicle.wait_until(lambda: reason in vehicle.said("lifecycle"))
