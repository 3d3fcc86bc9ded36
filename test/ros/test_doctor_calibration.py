"""The doctor on calibration and mountings, on messages made by hand and a table instead of tf2."""

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from sensor_msgs.msg import Image

from bevdistill_ros.doctor.checks.calibration import (
    MountingSource,
    check_mountings,
    straight_pictures,
)
from bevdistill_ros.doctor.checks.rig import BODY_FROM_OPTICAL
from bevdistill_ros.doctor.finding import Verdict
from bevdistill_ros.doctor.live.recording import Recording, Track
from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.rig.calibration import Calibration

CALIBRATION = Calibration(matrix=np.diag([50.0, 50.0, 1.0]), size=(40, 60), frame_id="front_optical")
STAMPS = [1_000, 2_000, 3_000]


class Table:
    """What `Transforms` offers, for one transform at one stamp."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        if (target, source, stamp_ns) != ("base_link", "front_optical", 2_000):
            raise ValueError(f"tf does not know {target} <- {source}")
        pose = np.eye(4)
        pose[:3, :3] = BODY_FROM_OPTICAL
        pose[:3, 3] = [1.0, 0.0, 1.5]
        return pose


def track(stamps: list[int]) -> Track:
    found = Track(topic="/front")
    for stamp in stamps:
        pixels = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
        header = header_from(stamp, "front_optical")
        message = Image(header=header, height=40, width=60, encoding="rgb8", step=180, data=pixels.tobytes())
        found.add(message, stamp + 10)
    return found


def recording(transforms: Any) -> Recording:
    return Recording(
        images={"FRONT": track(STAMPS)},
        camera_infos={},
        odometry=Track(topic="/odom"),
        diagnostics={},
        transforms=transforms,
        sim_time=False,
        now_ns=9_000,
    )


def test_mounting_of_tf_at_the_stamp_of_an_image() -> None:
    source = MountingSource(rig=None, base_frame="base_link")
    (finding,), (view,) = check_mountings(recording(Table()), {"FRONT": CALIBRATION}, source)
    assert finding.verdict is Verdict.OK
    assert finding.message == "base_link <- front_optical at the image's stamp"
    assert (view.name, view.height, view.yaw) == ("FRONT", 1.5, 0.0)


def test_frame_that_tf_does_not_know() -> None:
    source = MountingSource(rig=None, base_frame="base_footprint")
    (finding,), views = check_mountings(recording(Table()), {"FRONT": CALIBRATION}, source)
    assert views == []
    assert finding.verdict is Verdict.FAIL
    assert finding.message == "tf does not know base_footprint <- front_optical"
    assert "static_transform_publisher base_footprint -> front_optical" in finding.remedy


def test_neither_tf_nor_a_rig() -> None:
    source = MountingSource(rig=None, base_frame="base_link")
    (finding,), views = check_mountings(recording(None), {"FRONT": CALIBRATION}, source)
    assert views == []
    assert finding.verdict is Verdict.FAIL
    assert "neither tf2_ros nor a rig_file" in finding.message


def test_pictures_are_straightened() -> None:
    bent = Calibration(
        matrix=CALIBRATION.matrix, size=CALIBRATION.size, distortion=np.array([-0.3, 0.1, 0, 0]), model="plumb_bob"
    )
    straight = straight_pictures(recording(None), {"FRONT": CALIBRATION})["FRONT"]
    assert straight.shape == (40, 60, 3)
    assert tuple(straight[0, 1]) == (3, 4, 5)
    assert not np.array_equal(straight_pictures(recording(None), {"FRONT": bent})["FRONT"], straight)


def test_damaged_image_gives_no_picture() -> None:
    heard = recording(None)
    heard.images["FRONT"].last.step = 1
    assert straight_pictures(heard, {"FRONT": CALIBRATION}) == {}
    assert isinstance(heard.images["FRONT"].picture, str)
