import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.temporal_memory import Memory, MemoryLimits

LIMITS = MemoryLimits(interval_s=0.5, max_gap_s=1.2, max_jump_m=20.0)
START = 10**18


def pose_at(x: float) -> Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = 5000.0 + x
    return pose


class Drive:
    """Frames at given times; each BEV holds its own time."""

    def __init__(self, rig: CameraRig, limits: MemoryLimits = LIMITS) -> None:
        self.memory, self.rig = Memory(limits), rig

    def frame(self, seconds: float, x: float = 0.0, rig: CameraRig | None = None) -> float | None:
        """Time of the BEV that a frame gets; None without one."""
        stamp, rig = START + round(seconds * 1e9), rig or self.rig
        previous = self.memory.previous_for(stamp, pose_at(x), rig)
        self.memory.update(stamp, pose_at(x), rig, torch.full((1, 2, 3, 4), seconds, dtype=torch.float64))
        return None if previous is None else round(float(previous.bev[0, 0, 0, 0]), 3)


def test_at_the_rate_of_training_it_is_the_frame_before(rig: CameraRig) -> None:
    drive = Drive(rig)
    assert [drive.frame(seconds) for seconds in (0.0, 0.5, 0.98, 1.5)] == [None, 0.0, 0.5, 0.98]
    assert not drive.memory.resets


def test_the_pose_is_that_of_the_bev(rig: CameraRig) -> None:
    drive = Drive(rig)
    drive.frame(0.0, x=3.0)
    previous = drive.memory.previous_for(START + 5 * 10**8, pose_at(5.0), rig)
    assert previous is not None
    assert torch.equal(previous.global_from_ego, pose_at(3.0)[None])
    assert previous.global_from_ego.dtype == torch.float64
    assert previous.present.tolist() == [True]


@pytest.mark.parametrize("rate", [10.0, 12.0, 30.0])
def test_at_a_higher_rate_the_age_stays_near_the_interval(rig: CameraRig, rate: float) -> None:
    drive = Drive(rig)
    for number in range(90):
        seconds = number / rate
        found = drive.frame(seconds)
        if seconds < 0.25 - 1e-6:
            assert found is None  # too young: it would misread every motion
        elif seconds >= 0.6:
            assert found is not None
            assert seconds - found == pytest.approx(0.5, abs=0.07)
    assert not drive.memory.resets


def test_only_a_few_bevs_are_held(rig: CameraRig) -> None:
    drive = Drive(rig)
    for number in range(300):
        drive.frame(number / 60)
    assert len(drive.memory._entries) <= 11


def test_a_lower_rate_uses_what_there_is(rig: CameraRig) -> None:
    drive = Drive(rig)
    assert [drive.frame(seconds) for seconds in (0.0, 1.0, 2.0)] == [None, 0.0, 1.0]


def test_a_gap_forgets(rig: CameraRig) -> None:
    drive = Drive(rig)
    assert [drive.frame(seconds) for seconds in (0.0, 0.5, 1.8, 2.3)] == [None, 0.0, None, 1.8]
    assert drive.memory.resets == {"gap": 1}


def test_a_clock_that_goes_back_forgets(rig: CameraRig) -> None:
    drive = Drive(rig)
    assert [drive.frame(seconds) for seconds in (5.0, 5.5, 5.4, 5.9)] == [None, 5.0, None, 5.4]
    assert drive.memory.resets == {"clock went back": 1}


def test_the_same_stamp_again_does_no_harm(rig: CameraRig) -> None:
    drive = Drive(rig)
    assert [drive.frame(seconds) for seconds in (0.0, 0.5, 0.5, 1.0)] == [None, 0.0, 0.0, 0.5]
    assert not drive.memory.resets


def test_a_pose_jump_forgets(rig: CameraRig) -> None:
    drive = Drive(rig)
    found = [drive.frame(seconds, x) for seconds, x in ((0.0, 0.0), (0.5, 19.0), (1.0, 39.5), (1.5, 45.0))]
    assert found == [None, 0.0, None, 1.0]
    assert drive.memory.resets == {"pose jump": 1}


def test_another_rig_forgets(rig: CameraRig) -> None:
    drive = Drive(rig)
    drive.frame(0.0)
    focal = rig.intrinsics.clone()
    focal[0, 0, 0] += 5.0
    assert drive.frame(0.5, rig=replace(rig, intrinsics=focal)) is None
    assert drive.frame(1.0, rig=rig) is None
    turned = rig.ego_from_camera.clone()
    angle = math.radians(20)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0, 0, 1]])
    turned[1, :3, :3] = turn.double() @ turned[1, :3, :3]
    assert drive.frame(1.5, rig=replace(rig, ego_from_camera=turned)) is None
    assert drive.frame(2.0, rig=rig.select(["BACK", "FRONT"])) is None
    assert drive.memory.resets == {"rig changed": 4}


def test_ego_motion_within_a_set_is_no_other_rig(rig: CameraRig) -> None:
    drive = Drive(rig)
    drive.frame(0.0)
    moved = rig.ego_from_camera.clone()
    moved[0, 0, 3] += 1.5  # 50 ms at 30 m/s
    assert drive.frame(0.5, rig=replace(rig, ego_from_camera=moved)) == 0.0


def test_a_request_forgets(rig: CameraRig) -> None:
    drive = Drive(rig)
    drive.frame(0.0)
    drive.memory.reset()
    assert drive.frame(0.5) is None
    assert drive.memory.resets == {"request": 1}


def test_a_pose_that_is_not_finite_is_refused(rig: CameraRig) -> None:
    with pytest.raises(ValueError, match="not finite; check the odometry"):
        Memory(LIMITS).previous_for(START, torch.full((4, 4), math.nan), rig)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval_s": 0.0}, "interval_s must be above 0"),
        ({"max_jump_m": math.nan}, "max_jump_m must be above 0"),
        ({"interval_s": 2.0}, "must not be below"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryLimits(**changes)
