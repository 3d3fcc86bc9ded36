"""The temporal student's memory of past BEVs, and when it must be forgotten.

The student is trained with a previous BEV of one fixed age. A camera ring may run faster, so several BEVs are held,
and the one whose age is nearest to that of the training is handed out; one much younger never is, as the student
would misread every motion.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass

import torch
from torch import Tensor

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.records import BevMemory

ENTRIES_PER_INTERVAL = 8  # BEVs closer together than this are not all kept
MAX_RIG_SHIFT = (
    3.0  # [m] of a camera between frames: ego motion between its stamp and the reference is no new calibration
)
MAX_RIG_TURN = math.radians(10.0)  # [rad], likewise
MAX_FOCAL_CHANGE = 0.5  # [px], of any intrinsic


@dataclass(frozen=True, kw_only=True)
class MemoryLimits:
    """When the past is used and when it is forgotten.

    Raises:
        ValueError: A limit is not positive, or the gap is below the interval.
    """

    interval_s: float = 0.5  # [s] age of the previous BEV in training
    max_gap_s: float = 1.5  # [s] between two frames
    max_jump_m: float = 30.0  # [m] of the ego pose between two frames

    def __post_init__(self) -> None:
        for name in ("interval_s", "max_gap_s", "max_jump_m"):
            if not getattr(self, name) > 0:
                raise ValueError(f"temporal.{name} must be above 0, but is {getattr(self, name)}")
        if self.max_gap_s < self.interval_s:
            raise ValueError(
                f"temporal.max_gap_s ({self.max_gap_s}) must not be below temporal.interval_s ({self.interval_s}); "
                "else no BEV would ever be used"
            )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    stamp_ns: int
    global_from_ego: Tensor  # (1, 4, 4) float64
    bev: Tensor  # (1, C, rows, cols)


class Memory:
    """Past BEVs of one vehicle; ask `previous_for` before each frame and `update` after it.

    Args:
        limits: When the past is used and when it is forgotten.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self.limits = limits
        self.resets: Counter[str] = Counter()  # how often the past was forgotten, by reason
        self._entries: deque[_Entry] = deque()
        self._latest: tuple[int, Tensor, CameraRig] | None = None
        self.age_s: float | None = None  # of the BEV that was last handed out; None where none was
        self.is_paused = False  # frames without an ego pose neither see the past nor become part of it

    def previous_for(self, stamp_ns: int, global_from_ego: Tensor, rig: CameraRig) -> BevMemory | None:
        """The past that belongs to a new frame.

        Args:
            stamp_ns: Reference stamp of the frame [ns].
            global_from_ego: Its ego pose (4, 4) [m].
            rig: Its cameras.

        Returns:
            The BEV whose age is nearest to the interval, with batch size 1; None where there is none of at least half
            that age, such as after a reset.

        Raises:
            ValueError: The ego pose is not finite.
        """
        self.age_s = None
        if self.is_paused:
            return None
        if not torch.isfinite(global_from_ego).all():
            raise ValueError(f"the ego pose at {stamp_ns} ns is not finite; check the odometry")
        reason = self._reason_to_forget(stamp_ns, global_from_ego, rig)
        if reason:
            self.reset(reason)
        interval_ns = self.limits.interval_s * 1e9
        while len(self._entries) > 1 and _miss(self._entries[1], stamp_ns, interval_ns) <= _miss(
            self._entries[0], stamp_ns, interval_ns
        ):
            self._entries.popleft()
        if not self._entries or stamp_ns - self._entries[0].stamp_ns < interval_ns / 2:
            return None
        best = self._entries[0]
        self.age_s = (stamp_ns - best.stamp_ns) / 1e9
        present = torch.ones(1, dtype=torch.bool)
        return BevMemory(bev=best.bev, global_from_ego=best.global_from_ego, present=present)

    def update(self, stamp_ns: int, global_from_ego: Tensor, rig: CameraRig, bev: Tensor) -> None:
        """Remember the BEV (1, C, rows, cols) of a frame."""
        if self.is_paused:
            return
        self._latest = (stamp_ns, global_from_ego.double().cpu(), rig)
        spacing_ns = self.limits.interval_s * 1e9 / ENTRIES_PER_INTERVAL
        if self._entries and stamp_ns - self._entries[-1].stamp_ns < spacing_ns:
            return
        pose = global_from_ego.to("cpu", torch.float64).unsqueeze(0)  # where the geometry is computed
        self._entries.append(_Entry(stamp_ns=stamp_ns, global_from_ego=pose, bev=bev.detach()))

    def reset(self, reason: str = "request") -> None:
        """Forget the past."""
        self._entries.clear()
        self._latest = None
        self.resets[reason] += 1

    def _reason_to_forget(self, stamp_ns: int, global_from_ego: Tensor, rig: CameraRig) -> str:
        """Why the past is of no use for a frame; empty if it is."""
        if self._latest is None:
            return ""
        last_stamp_ns, last_pose, last_rig = self._latest
        if stamp_ns < last_stamp_ns:
            return "clock went back"
        if stamp_ns - last_stamp_ns > self.limits.max_gap_s * 1e9:
            return "gap"
        moved = global_from_ego.double().cpu()[:3, 3] - last_pose[:3, 3]
        if float(moved.norm()) > self.limits.max_jump_m:
            return "pose jump"
        return "rig changed" if _is_other_rig(last_rig, rig) else ""


def _miss(entry: _Entry, stamp_ns: int, interval_ns: float) -> float:
    """How far an entry's age at a stamp is from the interval [ns]."""
    return abs(stamp_ns - entry.stamp_ns - interval_ns)


def _is_other_rig(first: CameraRig, second: CameraRig) -> bool:
    """Whether two rigs differ by more than what ego motion between the stamps of a set explains."""
    if first.names != second.names or first.image_size != second.image_size:
        return True
    if float((first.intrinsics - second.intrinsics).abs().max()) > MAX_FOCAL_CHANGE:
        return True
    shift = (first.ego_from_camera - second.ego_from_camera)[:, :3, 3].norm(dim=-1)
    relative = first.ego_from_camera[:, :3, :3].transpose(-1, -2) @ second.ego_from_camera[:, :3, :3]
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return float(shift.max()) > MAX_RIG_SHIFT or float(cosine.min()) < math.cos(MAX_RIG_TURN)
