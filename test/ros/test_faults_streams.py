"""Cameras that die, return, come late or lose images, and clocks that jump, in front of the real node.

Each set that was sent must end as detections, which are those of the right images, or as a drop with its reason.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Shared
    from vehicle import Vehicle

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rosgraph_msgs.msg import Clock
from tiny_model import CAMERAS, MS, OFFSETS_MS, assert_same, decoded, offline
from vehicle import jpeg, jpegs

from bevdistill_ros.node.convert import time_from
from bevdistill_ros.node.unpack import stamp_of

PERIOD_MS = 100
BUSY = {"worker busy", "synchroniser queue full"}  # reasons of a machine that does not keep up


def stamp_at(start: int, number: int) -> int:
    return start + number * PERIOD_MS * MS


def seed_of(number: int, camera: str) -> int:
    return 3 * number + CAMERAS.index(camera)


def play(
    vehicle: "Vehicle",
    start: int,
    images: Sequence[tuple[int, str]],
    late_ms: Mapping[str, float] | None = None,
) -> None:
    """Send images, given as number of the round and camera, as a ring does that fires every 100 ms.

    Args:
        vehicle: The vehicle.
        start: Stamp of round 0 [ns].
        images: What is sent, from the first of its rounds on.
        late_ms: How much later than the others a camera's images arrive [ms].
    """

    def send(number: int, camera: str) -> None:
        at = stamp_at(start, number) + OFFSETS_MS[camera] * MS
        vehicle.send_odometry(at)
        vehicle.send_calibration(camera, at)
        vehicle.send_image(camera, at, jpeg(seed_of(number, camera)))

    events = []
    first = min(number for number, _ in images)
    for number, camera in images:
        delay_ms = OFFSETS_MS[camera] + (late_ms or {}).get(camera, 0.0)
        events.append((((number - first) * PERIOD_MS + delay_ms) / 1e3, lambda n=number, c=camera: send(n, c)))
    vehicle.run(events)


def play_until_used(vehicle: "Vehicle", start: int, first: int, without: str = "") -> int:
    """Send round after round, of all cameras but one, until a set after the first is used; returns the next round."""
    for number in range(first, first + 50):
        play(vehicle, start, [(number, camera) for camera in CAMERAS if camera != without])
        used = [stamp_of(status) for status in vehicle.statuses if status.stages]
        if any(stamp > stamp_at(start, first) + PERIOD_MS * MS // 2 for stamp in used):
            return number + 1
        vehicle.rest(max(0.0, PERIOD_MS - max(OFFSETS_MS.values())) / 1e3)
    raise AssertionError(f"none of 50 sets was used: {reasons(outcomes(vehicle, start, first + 50, first))}")


def everything(count: int) -> list[tuple[int, str]]:
    return [(number, camera) for number in range(count) for camera in CAMERAS]


def outcomes(vehicle: "Vehicle", start: int, count: int, first: int = 0) -> dict[int, Any]:
    """Status of each round, once all from the first on have come; any camera may anchor the set of a round."""
    found: dict[int, Any] = {}

    def gather() -> bool:
        for status in vehicle.statuses:
            number = round((stamp_of(status) - start) / (PERIOD_MS * MS))
            if 0 <= number < count and abs(stamp_of(status) - stamp_at(start, number)) <= 20 * MS:
                found.setdefault(number, []).append(status)
        complete = set(found) >= set(range(first, count))
        found_now.update({number: list(statuses) for number, statuses in found.items()})
        found.clear()
        return complete

    found_now: dict[int, Any] = {}
    vehicle.wait_until(gather, 10.0)
    twice = {number: [fate_of(status) for status in both] for number, both in found_now.items() if len(both) > 1}
    assert not twice, "a set was counted twice"
    return {number: statuses[0] for number, statuses in sorted(found_now.items())}


def fate_of(status: Any) -> str:
    return f"{stamp_of(status) / MS:.0f} {list(status.present)} {status.drop_reason if not status.stages else 'used'}"


def check_detections(vehicle: "Vehicle", bundle: Path, start: int, found: Mapping[int, Any]) -> None:
    """Whether each processed set was detected in with the images of its own round."""
    processed = {number: status for number, status in found.items() if status.stages}
    rounds = [
        (
            stamp_of(status),
            [
                decoded(seed_of(number, camera)) if there else None
                for camera, there in zip(CAMERAS, status.present, strict=True)
            ],
        )
        for number, status in processed.items()
    ]
    for (stamp, _), expected in zip(rounds, offline(bundle, rounds), strict=True):
        assert vehicle.wait_until(lambda stamp=stamp: stamp in vehicle.detections)
        assert_same(vehicle.detections[stamp], expected)


def reasons(found: Mapping[int, Any]) -> Counter[str]:
    return Counter(status.drop_reason for status in found.values() if not status.stages)


def test_every_set_of_a_stream_is_used(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    play(skipping, stamp, everything(10))
    found = outcomes(skipping, stamp, 10)
    assert list(found) == list(range(10))
    # A busy machine may be slower than the cameras, which is reported.
    assert set(reasons(found)) <= BUSY
    check_detections(skipping, bundle, stamp, found)


def test_dead_camera_is_skipped_and_named(shared: "Shared", stamp: int) -> None:
    vehicle = shared.use(sync__max_age_ms=300.0)
    vehicle.send_set(stamp, jpegs(without=["RIGHT"]))
    assert vehicle.await_drop(stamp) == "missing RIGHT"
    assert list(vehicle.status(stamp).present) == [True, True, False]
    vehicle.detect(stamp + 500 * MS, jpegs())


def test_camera_that_dies_and_returns_is_blank_meanwhile(shared: "Shared", bundle: Path, stamp: int) -> None:
    vehicle = shared.use(missing_camera="blank", sync__max_age_ms=300.0)
    play(vehicle, stamp, [(n, c) for n, c in everything(20) if c != "RIGHT" or not 5 <= n < 13])
    found = outcomes(vehicle, stamp, 20)
    assert list(found) == list(range(20))
    assert set(reasons(found)) <= BUSY
    check_detections(vehicle, bundle, stamp, found)
    for number, status in found.items():
        if status.stages:
            # The first image after its return comes when nobody waits for it any more.
            assert list(status.present) == [True, True, not 5 <= number < 13] or number == 13
    assert sum(bool(status.stages) for status in found.values()) >= 5


def test_reference_camera_that_dies_and_returns(shared: "Shared", bundle: Path, stamp: int) -> None:
    vehicle = shared.use(missing_camera="blank", sync__max_age_ms=300.0)
    play(vehicle, stamp, [(n, c) for n, c in everything(16) if c != "FRONT" or n < 5])
    # One second it is waited for, then another camera stands in for it. A busy machine may need some rounds for a set.
    back = play_until_used(vehicle, stamp, 16, without="FRONT")
    end = play_until_used(vehicle, stamp, back)
    found = outcomes(vehicle, stamp, end)
    assert list(found) == list(range(end))
    assert set(reasons(found)) <= {*BUSY, "missing FRONT"}
    check_detections(vehicle, bundle, stamp, found)
    assert not any(status.present[1] for number, status in found.items() if 5 <= number < back)


@pytest.mark.parametrize("camera", ["RIGHT", "FRONT"])
def test_camera_that_is_dead_from_the_start(shared: "Shared", bundle: Path, stamp: int, camera: str) -> None:
    vehicle = shared.use(missing_camera="blank", sync__max_age_ms=300.0)
    assert vehicle.change_state("deactivate")
    assert vehicle.change_state("activate")
    vehicle.connect()
    play(vehicle, stamp, [(n, c) for n, c in everything(16) if c != camera])
    # Of a dead reference it is known after a second only that it is dead.
    first = 0 if camera == "RIGHT" else 12
    found = outcomes(vehicle, stamp, 16, first)
    assert set(found) >= set(range(first, 16))
    assert set(reasons(found)) <= BUSY
    check_detections(vehicle, bundle, stamp, found)
    assert vehicle.wait_until(lambda: f"{camera} ({vehicle.name}/input/" in vehicle.said("cameras"))
    assert vehicle.diagnostics["cameras"].level == b"\x02"


@pytest.mark.parametrize("camera", ["RIGHT", "FRONT"])
def test_camera_late_by_200_ms_takes_part_with_its_own_images(
    skipping: "Vehicle", bundle: Path, stamp: int, camera: str
) -> None:
    play(skipping, stamp, everything(8), late_ms={camera: 200.0})
    found = outcomes(skipping, stamp, 8)
    assert list(found) == list(range(8))
    assert set(reasons(found)) <= BUSY
    check_detections(skipping, bundle, stamp, found)


def test_camera_later_than_the_longest_wait_is_missing_and_never_mixed(shared: "Shared", stamp: int) -> None:
    vehicle = shared.use(sync__max_age_ms=60.0)
    play(vehicle, stamp, everything(10), late_ms={"LEFT": 200.0})
    found = outcomes(vehicle, stamp, 10)
    assert list(found) == list(range(10))
    assert reasons(found) == {"missing LEFT": 10}


@pytest.mark.slow
@pytest.mark.parametrize("missing_camera", ["skip", "blank"])
def test_loss_of_five_percent_is_counted(shared: "Shared", bundle: Path, stamp: int, missing_camera: str) -> None:
    vehicle = shared.use(missing_camera=missing_camera)
    generator = random.Random(5)
    # The rhythm of the reference must be known before its losses can be.
    sent = [entry for entry in everything(100) if entry[0] < 4 or entry[0] == 99 or generator.random() >= 0.05]
    complete = {n for n in range(100) if sum(entry[0] == n for entry in sent) == 3}
    assert {c for n, c in everything(100) if (n, c) not in sent} == set(CAMERAS)
    play(vehicle, stamp, sent)
    found = outcomes(vehicle, stamp, 100)
    assert list(found) == list(range(100))
    check_detections(vehicle, bundle, stamp, found)
    expected = {*BUSY, *(f"missing {camera}" for camera in CAMERAS)}
    assert set(reasons(found)) <= expected
    if missing_camera == "skip":
        assert all(status.drop_reason in expected for number, status in found.items() if number not in complete)
        assert not any(status.stages for number, status in found.items() if number not in complete)
    assert not any(
        status.drop_reason.startswith("missing") and not status.stages
        for number, status in found.items()
        if number in complete
    )


def test_cameras_faster_than_the_model_are_passed_over_and_counted(
    skipping: "Vehicle", bundle: Path, stamp: int
) -> None:
    for number in range(10):
        for camera in CAMERAS:
            at = stamp_at(stamp, number) + OFFSETS_MS[camera] * MS
            skipping.send_odometry(at)
            skipping.send_calibration(camera, at)
            skipping.send_image(camera, at, jpeg(seed_of(number, camera)))
    found = outcomes(skipping, stamp, 10)
    assert found[9].stages, "the newest set wins"
    assert set(reasons(found)) <= {*BUSY, "missing FRONT", "missing LEFT", "missing RIGHT"}
    check_detections(skipping, bundle, stamp, found)


def test_duplicates_and_reordered_images_change_nothing(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    images = ["0 FRONT", "0 LEFT", "0 LEFT", "1 LEFT", "0 RIGHT", "1 RIGHT", "1 FRONT", "1 FRONT"]
    order = [(int(number), camera) for number, camera in map(str.split, images)]
    for number, camera in order:
        at = stamp_at(stamp, number) + OFFSETS_MS[camera] * MS
        skipping.send_odometry(at)
        skipping.send_calibration(camera, at)
        skipping.send_image(camera, at, jpeg(seed_of(number, camera)))
        skipping.rest(0.1)
    found = outcomes(skipping, stamp, 2)
    assert set(reasons(found)) <= BUSY
    check_detections(skipping, bundle, stamp, found)
    assert skipping.wait_until(lambda: "stamp of an earlier one" in skipping.said("inputs"))


def test_stamps_that_go_back_reset_the_memory(shared: "Shared", bundle: Path, stamp: int) -> None:
    vehicle = shared.use()
    vehicle.detect(stamp, jpegs(1))
    vehicle.detect(stamp + 500 * MS, jpegs(2))
    back = stamp - 5_000 * MS
    message = vehicle.detect(back, jpegs(3))
    assert_same(message, offline(bundle, [(back, [decoded(3 + place) for place in range(3)])])[0])
    assert "stamps went back" in shared.process.log


def test_gap_between_sets_resets_the_memory(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    skipping.detect(stamp, jpegs(1))
    later = stamp + 2_000 * MS  # temporal.max_gap_s is 1.5
    message = skipping.detect(later, jpegs(3))
    assert_same(message, offline(bundle, [(later, [decoded(3 + place) for place in range(3)])])[0])


def test_simulated_time(shared: "Shared", bundle: Path, stamp: int) -> None:
    vehicle = shared.use(use_sim_time=True)
    assert vehicle.wait_until(lambda: "nothing publishes /clock" in vehicle.said("clock"))
    clock = vehicle.node.create_publisher(Clock, "/clock", 10)
    assert vehicle.wait_until(clock.get_subscription_count)

    def turn(now: int, until: Callable[[], bool] = lambda: False, timeout_s: float = 0.3) -> None:
        vehicle.wait_until(lambda: clock.publish(Clock(clock=time_from(now))) or until(), timeout_s)

    turn(stamp + 50 * MS, lambda: vehicle.said("clock") == "/clock", 30.0)
    vehicle.detect(stamp, jpegs(1))
    status = vehicle.status(stamp)
    assert status.latency_ms == pytest.approx(60.0)
    assert list(status.age_ms) == pytest.approx([60.0, 50.0, 40.0])
    # A dead camera is waited for in simulated time.
    vehicle.send_set(stamp + 500 * MS, jpegs(4, without=["RIGHT"]))
    vehicle.rest(1.0)
    assert vehicle.status(stamp + 500 * MS) is None
    turn(stamp + 2600 * MS)
    assert vehicle.await_drop(stamp + 500 * MS) == "missing RIGHT"
    # The recording starts again.
    back = stamp - 10_000 * MS
    turn(back + 50 * MS)
    message = vehicle.detect(back, jpegs(7))
    assert_same(message, offline(bundle, [(back, [decoded(7 + place) for place in range(3)])])[0])
    assert vehicle.status(back).latency_ms == pytest.approx(60.0)
    assert vehicle.wait_until(lambda: vehicle.said("clock") == "/clock")
    vehicle.node.destroy_publisher(clock)
