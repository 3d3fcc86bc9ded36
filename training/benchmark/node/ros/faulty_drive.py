"""Process of `bevdistill bench soak`: a vehicle that much goes wrong with.

Called with a plan and the place of the log, both JSON: `python -m training.benchmark.node.ros.faulty_drive PLAN LOG`.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from training.benchmark.node.faults import CLOCK_BACK_S, LATE_S, LOSS, Fault, draw_faults, fault_at
from training.benchmark.node.pictures import PICTURE_SIZE
from training.benchmark.node.ros.vehicle import Vehicle, camera_infos, compressed_image, images_of
from training.benchmark.node.soak_log import SentSet, SetStatus, SoakLog, SoakPlan
from training.replay.play import Wait, ros_node
from training.replay.process import usage_of

_POSES_PER_SET = 4  # odometry is so many times faster than the cameras
_DRAIN_S = 2.0  # for the last answers
_NANOSECONDS = 1_000_000_000


class FaultyCameras:
    """What each camera sends, as it should be and as a fault makes it.

    Args:
        vehicle: Sends it.
        plan: Of the soak.
    """

    def __init__(self, vehicle: Vehicle, plan: SoakPlan) -> None:
        self._vehicle = vehicle
        self._cameras = plan.cameras
        self._rng = np.random.default_rng(plan.seed)
        height, width = PICTURE_SIZE
        folder = Path(plan.pictures)
        jpegs = {camera: (folder / f"{camera}.jpg").read_bytes() for camera in plan.cameras}
        square = cv2.imencode(".jpg", np.full((640, 640, 3), 128, np.uint8))[1].tobytes()
        self._good = images_of(folder, plan.cameras, "compressed")
        self._bad = {
            "truncated": {name: compressed_image(name, jpeg[: len(jpeg) // 2]) for name, jpeg in jpegs.items()},
            "encoding": {
                name: compressed_image(name, jpeg, file_format="16UC1; compressedDepth") for name, jpeg in jpegs.items()
            },
            "size": {name: compressed_image(name, square) for name in jpegs},
        }
        self._infos = camera_infos(plan.cameras, width=width, height=height)
        self._broken_infos = camera_infos(plan.cameras, width=width, height=height, broken=True)
        self._late: list[tuple[float, str, int]] = []  # when to send, camera, stamp

    def send_set(self, stamp_ns: int, fault: Fault | None) -> int:
        """Send calibrations and images of one stamp; returns how many images are sent, now or late."""
        sent = 0
        for camera in self._cameras:
            own = fault if fault is not None and fault.camera == camera else None
            infos = self._broken_infos if own and own.kind == "calibration" else self._infos
            self._vehicle.send_info(camera, infos[camera], stamp_ns)
            if own and own.kind == "dead camera":
                continue
            if fault is not None and fault.kind == "loss" and self._rng.random() < LOSS:
                continue
            sent += 1
            if own and own.kind == "late camera":
                self._late.append((time.perf_counter() + LATE_S, camera, stamp_ns))
                continue
            images = self._bad.get(own.kind, self._good) if own else self._good
            self._vehicle.send_image(camera, images[camera], stamp_ns)
        return sent

    def send_late(self) -> None:
        """Send the late images whose time has come."""
        while self._late and self._late[0][0] <= time.perf_counter():
            _, camera, stamp = self._late.pop(0)
            self._vehicle.send_image(camera, self._good[camera], stamp)


def drive(plan: SoakPlan) -> SoakLog:
    """Drive past the node, and log what was sent and what the node reported.

    Raises:
        TimeoutError: The node does not subscribe.
        ProcessLookupError: Its process has ended.
    """
    faults = draw_faults(seed=plan.seed, seconds=plan.seconds, cameras=plan.cameras)
    with ros_node("bevdistill_vehicle") as (node, wait):
        vehicle = Vehicle(node, plan.cameras, "compressed")
        vehicle.connect(wait, plan.start_timeout_s, lambda: usage_of(plan.receiver_pid))
        sent = _send(vehicle, FaultyCameras(vehicle, plan), plan, faults, wait)
        wait(_DRAIN_S)
        return SoakLog(
            sent=tuple(sent), detected_ns=tuple(vehicle.answered), reported=tuple(_reported(vehicle.statuses))
        )


def _send(
    vehicle: Vehicle, cameras: FaultyCameras, plan: SoakPlan, faults: tuple[Fault, ...], wait: Wait
) -> list[SentSet]:
    sent: list[SentSet] = []
    start = time.perf_counter()
    for tick in range(round(plan.seconds * plan.rate_hz) * _POSES_PER_SET):
        wait(max(start + tick / (_POSES_PER_SET * plan.rate_hz) - time.perf_counter(), 0.0))
        at = time.perf_counter() - start
        fault = fault_at(faults, at)
        kind = fault.kind if fault is not None else ""
        stamp = time.time_ns() - (round(CLOCK_BACK_S * _NANOSECONDS) if kind == "clock back" else 0)
        if kind != "odometry gap":
            vehicle.send_odometry(stamp)
        cameras.send_late()
        if tick % _POSES_PER_SET == 0:
            num_images = cameras.send_set(stamp, fault)
            sent.append(SentSet(stamp_ns=stamp, at_s=at, num_images=num_images))
            usage_of(plan.receiver_pid)
    return sent


def _reported(statuses: Iterable[object]) -> Iterable[SetStatus]:
    """What the node's statuses say; of a dropped set they name no stages."""
    for status in statuses:
        header, stages = status.header, status.stages  # type: ignore[attr-defined]
        yield SetStatus(
            stamp_ns=header.stamp.sec * _NANOSECONDS + header.stamp.nanosec,
            dropped="" if stages else str(status.drop_reason),  # type: ignore[attr-defined]
            sets_processed=int(status.sets_processed),  # type: ignore[attr-defined]
            sets_dropped=int(status.sets_dropped),  # type: ignore[attr-defined]
        )


if __name__ == "__main__":
    drive(SoakPlan.read(Path(sys.argv[1]))).write(Path(sys.argv[2]))
