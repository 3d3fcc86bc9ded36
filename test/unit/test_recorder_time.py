"""Bags as `ros2 bag record` stamps them: with the time of receipt, which is not that of the headers."""

from pathlib import Path

from foreign_bags import START_NS, rewritten, scene_of

from bevdistill_ros.interface.topics import TopicMap
from training.bag.read_bag import BagMessage, read_bag
from training.bag.write_bag import write_scene
from training.replay.clock import HeaderClock
from training.replay.order import stream

CAMERAS = ("CAM_FRONT", "CAM_BACK")
SECOND = 1_000_000_000
REFERENCE = "/CAM_FRONT/image_rect_compressed"


def bag_of(folder: Path, **how: object) -> Path:
    scene = scene_of(folder, dict.fromkeys(CAMERAS, 0.0))
    return rewritten(write_scene(scene, folder / "ours", progress=False), folder / "theirs", **how)  # type: ignore[arg-type]


def message(stamp_ns: int, received_ns: int, topic: str = REFERENCE) -> BagMessage:
    return BagMessage(topic=topic, message_type="", received_ns=received_ns, stamp_ns=stamp_ns, data=b"")


def test_stamps_are_those_of_the_headers(tmp_path: Path) -> None:
    bag = read_bag(bag_of(tmp_path, late_ms=(5, 40), offset_ns=7 * SECOND, compressed=True))
    expected = {START_NS + index * SECOND // 2 + number * 10_000_000 for index in range(3) for number in range(2)}
    found = list(bag.messages())
    assert {entry.stamp_ns for entry in found} == expected
    assert {entry.stamp_ns for entry in found if entry.topic == "/tf"} == expected
    assert all(5e6 <= entry.received_ns - entry.stamp_ns - 7 * SECOND <= 40e6 for entry in found)
    assert [entry.received_ns for entry in found] == sorted(entry.received_ns for entry in found)


def test_key_frames_are_chosen_by_headers(tmp_path: Path) -> None:
    from training.bag.read_bag import samples_of

    bag = read_bag(bag_of(tmp_path, late_ms=(5, 40), drop=()))
    layout = TopicMap()
    played = list(stream(bag, bag.topics, layout, CAMERAS, samples_of(bag)[::2]))
    assert [entry.stamp_ns - START_NS for entry in played if entry.topic == REFERENCE] == [0, SECOND]


def test_what_is_latched_on_the_vehicle_is_played_first(tmp_path: Path) -> None:
    seen: set[str] = set()

    def once(topic: str, content: object) -> object:
        if topic.endswith("camera_info") and topic in seen:
            return None
        seen.add(topic)
        return content

    late = {"/tf_static": (1200.0, 1200.0), "/CAM_FRONT/camera_info": (700.0, 700.0)}
    bag = read_bag(bag_of(tmp_path, late_ms=late, change=once))
    played = list(stream(bag, bag.topics, TopicMap(), CAMERAS))
    first = {entry.topic for entry in played[:3]}
    assert first == {"/tf_static", "/CAM_FRONT/camera_info", "/CAM_BACK/camera_info"}
    assert len(played) == sum(bag.counts.values())
    assert [entry.received_ns for entry in played] == sorted(entry.received_ns for entry in played)


def test_the_clock_is_the_newest_stamp(tmp_path: Path) -> None:
    """Simulated time at half the speed of the recorder's clock, which is years ahead."""
    start, ahead = START_NS, 10**17
    clock = HeaderClock(message(start, start + ahead), REFERENCE)
    drive = [message(start + step * SECOND // 20, start + ahead + step * SECOND // 10) for step in range(100)]
    odometry = [message(entry.stamp_ns - SECOND // 5, entry.received_ns, "/odom") for entry in drive]
    times = [(clock.after(late), clock.after(image)) for late, image in zip(odometry, drive, strict=True)]
    assert [time for _, time in times] == [entry.stamp_ns for entry in drive]
    assert all(later >= earlier for earlier, later in times)
    assert [earlier for earlier, _ in times[1:]] == [later for _, later in times[:-1]]


def test_a_stamp_of_another_clock_does_not_move_the_clock() -> None:
    clock = HeaderClock(message(START_NS, START_NS), REFERENCE)
    assert clock.after(message(START_NS, START_NS)) == START_NS
    for wrong in (0, START_NS + 37 * SECOND):
        assert clock.after(message(wrong, START_NS + 1, "/other")) == START_NS
    assert clock.after(message(START_NS + 10, START_NS + 20, "/other")) == START_NS + 10


def test_the_clock_goes_back_with_a_recording_that_begins_again() -> None:
    clock = HeaderClock(message(START_NS, START_NS), REFERENCE)
    for step in range(5):
        clock.after(message(START_NS + step * SECOND, START_NS + step * SECOND))
    assert clock.after(message(START_NS, START_NS + 5 * SECOND)) == START_NS
    assert clock.after(message(START_NS + SECOND, START_NS + 6 * SECOND)) == START_NS + SECOND
