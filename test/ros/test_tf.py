"""tf as a source of mountings and of ego motion, on a table instead of tf2; and tf2 itself where it is installed."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.node import tf
from bevdistill_ros.node.rig.from_tf import TfMotion, TfMountings


class Table:
    """What `Transforms` offers, from a table by target, source and stamp."""

    def __init__(self, entries: dict[tuple[str, str, int], np.ndarray]) -> None:
        self.entries = entries
        self.waits: list[int] = []

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        try:
            return self.entries[target, source, stamp_ns]
        except KeyError:
            raise ValueError(f"tf does not know {target} <- {source}") from None

    def wait_for(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> bool:
        if timeout_s > 0:
            self.waits.append(stamp_ns)
        return (target, source, stamp_ns) in self.entries

    def clear(self) -> None:
        self.entries.clear()


def pose(x: float) -> np.ndarray:
    return transform_from(np.array([1.0, 0.0, 0.0, 0.0]), np.array([x, 0.0, 0.0]))


def test_mounting_is_looked_up_at_the_stamp_by_the_camera_frame() -> None:
    table = Table({("base_link", "front_optical", 7): pose(1.0), ("base_link", "front_optical", 8): pose(2.0)})
    mountings = TfMountings(table, "base_link", max_wait_s=0.05)
    assert mountings.ego_from_camera("FRONT", "front_optical", 8)[0, 3] == 2.0
    with pytest.raises(ValueError, match="tf does not know base_link <- front_optical"):
        mountings.ego_from_camera("FRONT", "front_optical", 9)
    with pytest.raises(ValueError, match="neither camera_info nor image of FRONT names a frame"):
        mountings.ego_from_camera("FRONT", "", 8)
    assert table.waits == [8, 9]
    # What did not come is not waited for again, until it is there.
    with pytest.raises(ValueError, match="tf does not know"):
        mountings.ego_from_camera("FRONT", "front_optical", 10)
    assert mountings.ego_from_camera("FRONT", "front_optical", 7)[0, 3] == 1.0
    assert table.waits == [8, 9]
    table.entries["base_link", "front_optical", 9] = pose(3.0)
    mountings.ego_from_camera("FRONT", "front_optical", 8)
    assert table.waits == [8, 9, 8]


class Repeated:
    """What tf2 knows of mountings that are repeated on /tf: nothing beyond the newest or before the oldest."""

    def __init__(self, *stamped: tuple[int, np.ndarray]) -> None:
        self.stamped = list(stamped)
        self.waits = 0

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        if source.startswith("/") or target.startswith("/"):
            raise ValueError("frame ids cannot start with a slash")
        stamps = [stamp for stamp, _ in self.stamped]
        if not stamps or not stamps[0] <= stamp_ns <= stamps[-1]:
            raise ValueError("lookup would require extrapolation")
        return next(found for stamp, found in reversed(self.stamped) if stamp <= stamp_ns)

    def wait_for(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> bool:
        self.waits += timeout_s > 0
        return bool(self.stamped) and self.stamped[-1][0] >= stamp_ns

    def clear(self) -> None:
        self.stamped.clear()


MS = 1_000_000


def test_mounting_that_is_repeated_on_tf_is_fixed() -> None:
    repeated = Repeated((0, pose(1.0)), (100 * MS, pose(1.0)))
    mountings = TfMountings(repeated, "/base_link", max_wait_s=0.05)
    for at in range(102, 2000, 100):
        assert mountings.ego_from_camera("FRONT", "/front", at * MS)[0, 3] == 1.0
        repeated.stamped.append(((at + 98) * MS, pose(1.0)))
    assert repeated.waits == 1, "a fixed mounting is not worth waiting for"


def test_mounting_that_moves_is_not_taken_as_it_was() -> None:
    moving = Repeated(*((at * MS, pose(at / 1000)) for at in range(0, 1000, 10)))
    mountings = TfMountings(moving, "base_link", max_wait_s=0.05)
    with pytest.raises(ValueError, match="require extrapolation"):
        mountings.ego_from_camera("FRONT", "front", 995 * MS)


def test_mounting_that_begins_to_move_is_waited_for_again() -> None:
    repeated = Repeated(*((at * MS, pose(1.0)) for at in range(0, 1000, 10)))
    mountings = TfMountings(repeated, "base_link", max_wait_s=0.05)
    assert mountings.ego_from_camera("FRONT", "front", 995 * MS)[0, 3] == 1.0
    repeated.stamped += [(at * MS, pose(1.0 + at / 1000)) for at in range(1000, 1100, 10)]
    with pytest.raises(ValueError, match="require extrapolation"):
        mountings.ego_from_camera("FRONT", "front", 1095 * MS)
    assert repeated.waits == 2


def test_mounting_seen_once_is_not_known_to_be_fixed() -> None:
    mountings = TfMountings(Repeated((0, pose(1.0)), (1 * MS, pose(1.0))), "base_link", max_wait_s=0.05)
    with pytest.raises(ValueError, match="require extrapolation"):
        mountings.ego_from_camera("FRONT", "front", 500 * MS)


def test_motion_of_tf_is_extrapolated_within_a_bound() -> None:
    tf_at_10_hz = Repeated(*((at * MS, pose(at / 100)) for at in range(0, 1001, 1)))  # 10 m/s
    motion = TfMotion(tf_at_10_hz, "/odom", "/base_link", max_extrapolation_s=0.25)
    np.testing.assert_allclose(motion.odom_from_ego(1100 * MS), pose(11.0), atol=1e-9)
    assert motion.lag_ns(1100 * MS) == 100 * MS
    assert motion.lag_ns(900 * MS) == 0
    assert motion.odom_from_ego(1300 * MS) is None


def test_motion_is_looked_up_at_the_stamp() -> None:
    table = Table({("odom", "base_link", 7): pose(3.0)})
    motion = TfMotion(table, "odom", "base_link")
    assert motion.odom_from_ego(7)[0, 3] == 3.0
    assert motion.odom_from_ego(8) is None
    assert motion.wait_for(7, 0.1)
    assert not motion.wait_for(8, 0.1)
    assert not motion.wait_for(9, 0.1)
    table.entries["odom", "base_link", 8] = pose(4.0)
    assert not motion.wait_for(10, 0.1)
    assert table.waits == [7, 8, 10]
    motion.forget_after(0)
    assert motion.odom_from_ego(7) is None


@pytest.mark.skipif(tf.HAS_TF2, reason="tf2_ros is installed")
def test_without_tf2_the_way_out_is_told() -> None:
    with pytest.raises(ValueError, match=r"tf2_ros.*rig_file"):
        tf.Transforms(None)
