"""The benchmarks' processes over real middleware, and the parts of the naive node."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.unpack import calibration_of, stamp_of
from training.benchmark.node.overhead import NodeBenchConfig, run_node_bench, synthetic_rig
from training.benchmark.node.pictures import PICTURE_SIZE
from training.benchmark.node.ros.approximate_time import ApproximateTime
from training.benchmark.node.ros.naive_node import prepared
from training.benchmark.node.ros.vehicle import camera_infos, compressed_image, raw_image, stamped
from training.benchmark.node.soak import SoakConfig, run_soak

MS = 1_000_000


def image(stamp_ms: int) -> Image:
    return Image(header=header_from(stamp_ms * MS, "camera"))


def matched(queue_size: int, slop_ms: int, *arrivals: tuple[int, int]) -> list[list[int]]:
    """Stamps [ms] of the sets that come of messages, each (topic, stamp [ms]), of two topics."""
    sets: list[list[int]] = []
    matcher = ApproximateTime(
        2, queue_size, slop_ms * MS, lambda *messages: sets.append([stamp_of(message) // MS for message in messages])
    )
    for topic, stamp in arrivals:
        matcher.add(topic, image(stamp))
    return sets


def test_approximate_time_takes_the_nearest_within_the_slop() -> None:
    assert matched(10, 20, (0, 100), (0, 110), (1, 112)) == [[110, 112]]
    assert matched(10, 20, (0, 100), (1, 121)) == []
    assert matched(10, 20, (0, 100), (1, 119), (0, 200), (1, 200)) == [[100, 119], [200, 200]]


def test_approximate_time_forgets_the_oldest() -> None:
    assert matched(2, 20, (0, 100), (0, 200), (0, 300), (1, 100)) == []
    assert matched(3, 20, (0, 100), (0, 200), (0, 300), (1, 100)) == [[100, 100]]


def test_approximate_time_uses_a_message_once() -> None:
    assert matched(10, 20, (0, 100), (1, 100), (1, 105)) == [[100, 100]]


@pytest.mark.parametrize("height", [80, 90, 96])  # cut off at the top, whole, padded at the bottom
def test_naive_preparation_is_that_of_our_preprocess_then_normalised(height: int) -> None:
    picture = np.full((180, 320, 3), (51, 102, 255), dtype=np.uint8)
    message = Image(height=180, width=320, encoding="rgb8", step=960, data=picture.tobytes())
    found = prepared(message, height=height, width=160)
    assert found.shape == (3, height, 160)
    assert found.dtype == np.float32
    expected = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (1.0 - 0.406) / 0.225]
    np.testing.assert_allclose(found[:, 70, 80], expected, rtol=1e-5)
    assert (found[:, 90:] == 0).all()


def test_messages_of_the_vehicle_are_what_they_should_be() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    raw = deserialize_message(stamped(raw_image("LEFT", picture), 12_000_000_034), Image)
    assert (stamp_of(raw), raw.header.frame_id, raw.encoding) == (12_000_000_034, "LEFT", "rgb8")
    assert np.array_equal(np.array(raw.data).reshape(4, 6, 3), picture)
    content = compressed_image("LEFT", b"\xff\xd8 jpeg")
    assert [stamp_of(deserialize_message(stamped(content, stamp), CompressedImage)) for stamp in (5, 6)] == [5, 6]
    assert bytes(deserialize_message(bytes(content), CompressedImage).data) == b"\xff\xd8 jpeg"


def test_calibrations_of_the_vehicle_are_those_of_the_rig_or_no_numbers() -> None:
    height, width = PICTURE_SIZE
    rig = synthetic_rig(height, width)
    infos = camera_infos(NUSCENES_CAMERAS, width=width, height=height)
    for camera, matrix in zip(rig.names, rig.intrinsics, strict=True):
        found = calibration_of(deserialize_message(bytes(infos[camera]), CameraInfo), rectified=False)
        np.testing.assert_allclose(found.matrix, matrix)
        assert (found.size, found.frame_id) == (PICTURE_SIZE, camera)
    broken = camera_infos(NUSCENES_CAMERAS, width=width, height=height, broken=True)["CAM_BACK"]
    with pytest.raises(ValueError, match="not finite"):
        calibration_of(deserialize_message(bytes(broken), CameraInfo), rectified=False)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["compressed", "raw"])
def test_node_bench_drives_both_nodes(transport: Any, tmp_path: Path) -> None:
    config = NodeBenchConfig(
        transport=transport, rate_hz=2.0, seconds=3.0, rounds=1, output=tmp_path / "bench", progress=False
    )
    lines = run_node_bench(config).splitlines()
    assert lines[-1].startswith("cpu ratio (ours / naive): ")
    assert float(lines[-1].rpartition(" ")[2]) > 0
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("ours", "naive"))}
    assert {name: row[:2] for name, row in rows.items()} == {"ours": ["6", "0"], "naive": ["6", "0"]}
    assert (tmp_path / "bench" / "results.json").is_file()


@pytest.mark.slow
def test_short_soak_accounts_for_every_set(tmp_path: Path) -> None:
    config = SoakConfig(minutes=0.4, rate_hz=4.0, output=tmp_path / "soak", progress=False)
    text = run_soak(config)
    assert "0.4 min, 96 sets" in text
    assert "NOT EXPLAINED" not in text
    assert (tmp_path / "soak" / "soak.json").is_file()


def test_bench_of_a_node_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.benchmark.node.overhead._START_TIMEOUT_S", 3.0)
    monkeypatch.setattr("training.benchmark.node.overhead._command", lambda *_: ["json.tool", "/no/such/file"])
    monkeypatch.setattr("training.benchmark.node.overhead.write_pictures", _write_one_colour)
    with pytest.raises(ChildProcessError, match="No such file"):
        run_node_bench(NodeBenchConfig(rounds=1, progress=False, output=tmp_path / "bench"))


def _write_one_colour(folder: Path) -> None:
    folder.mkdir(parents=True)
    for camera in NUSCENES_CAMERAS:
        cv2.imwrite(str(folder / f"{camera}.jpg"), np.zeros((*PICTURE_SIZE, 3), np.uint8))
