"""Process of `bevdistill bench node`: a vehicle whose cameras all fire at once, which is the hardest for the transport.

Called with a plan and the place of the log, both JSON: `python -m training.benchmark.node.ros.drive PLAN LOG`.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bevdistill_ros.node.unpack import stamp_of
from training.benchmark.node.drive_plan import DriveLog, DrivePlan
from training.benchmark.node.pictures import PICTURE_SIZE
from training.benchmark.node.ros.vehicle import Vehicle, camera_infos, images_of
from training.replay.play import Wait, ros_node
from training.replay.process import usage_of

_POSES_PER_SET = 4  # odometry is so many times faster than the cameras
_DRAIN_S = 1.0  # for the last answers


def drive(plan: DrivePlan) -> DriveLog:
    """Drive past a detector.

    Raises:
        TimeoutError: The detector does not subscribe or answer.
        ProcessLookupError: Its process has ended.
    """
    images = images_of(Path(plan.pictures), plan.cameras, plan.transport)
    infos = camera_infos(plan.cameras, width=PICTURE_SIZE[1], height=PICTURE_SIZE[0])
    with ros_node("bevdistill_vehicle") as (node, wait):
        vehicle = Vehicle(node, plan.cameras, plan.transport)
        vehicle.connect(wait, plan.start_timeout_s, lambda: usage_of(plan.receiver_pid))
        deadline = time.monotonic() + plan.start_timeout_s
        while not vehicle.answered:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the detector answered nothing within {plan.start_timeout_s:g} s")
            _send(vehicle, images, infos, rate_hz=plan.rate_hz, seconds=plan.warm_up_s, wait=wait)
            wait(_DRAIN_S)
        before = usage_of(plan.receiver_pid)
        sent = _send(vehicle, images, infos, rate_hz=plan.rate_hz, seconds=plan.seconds, wait=wait)
        wait(_DRAIN_S)
        after = usage_of(plan.receiver_pid)
    statuses = [status for status in vehicle.statuses if stamp_of(status) >= min(sent)]
    answered = {stamp: at for stamp, at in vehicle.answered.items() if stamp in sent}
    return DriveLog(
        sets_sent=len(sent),
        round_trips_ms=tuple((at - sent[stamp]) * 1e3 for stamp, at in answered.items()),
        cpu_s=after.cpu_s - before.cpu_s,
        stages_ms=_stages(statuses),
        drops=dict(Counter(str(status.drop_reason) for status in statuses if not status.stages)),
    )


def _send(
    vehicle: Vehicle,
    images: dict[str, bytearray],
    infos: dict[str, bytearray],
    *,
    rate_hz: float,
    seconds: float,
    wait: Wait,
) -> dict[int, float]:
    """Send sets at a rate; returns when the last image of each set went out [s, time.perf_counter], by its stamp."""
    sent: dict[int, float] = {}
    start = time.perf_counter()
    for tick in range(round(seconds * rate_hz) * _POSES_PER_SET):
        wait(max(start + tick / (_POSES_PER_SET * rate_hz) - time.perf_counter(), 0.0))
        stamp = time.time_ns()
        vehicle.send_odometry(stamp)
        if tick % _POSES_PER_SET == 0:
            for camera, info in infos.items():
                vehicle.send_info(camera, info, stamp)
            for camera, image in images.items():
                vehicle.send_image(camera, image, stamp)
            sent[stamp] = time.perf_counter()
    return sent


def _stages(statuses: Iterable[Any]) -> dict[str, tuple[float, ...]]:
    """The stages that PipelineStatus messages report."""
    stages: dict[str, list[float]] = defaultdict(list)
    for status in statuses:
        for name, value in zip(status.stages, status.stage_ms, strict=True):
            stages[name].append(float(value))
    return {name: tuple(values) for name, values in stages.items()}


if __name__ == "__main__":
    drive(DrivePlan.read(Path(sys.argv[1]))).write(Path(sys.argv[2]))
