"""The anchor synchroniser, without ROS: a message is a (stamp, name) pair, and time is a number that the test turns."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from bevdistill_ros.node import filter_stand_ins, filters
from bevdistill_ros.node.synchronizer import AnchorSynchronizer, Stream

MS = 1_000_000
PERIOD = 83 * MS
# A nuScenes ring: the cameras fire one after the other as the LiDAR passes.
OFFSETS = {"LEFT": -8 * MS, "FRONT": 0, "RIGHT": 8 * MS, "BACK_RIGHT": 15 * MS, "BACK": 25 * MS, "BACK_LEFT": 35 * MS}
START = 1_500_000_000 * 1000 * MS

FILTERS = [filter_stand_ins.SimpleFilter]
if filters.HAS_MESSAGE_FILTERS:
    FILTERS.append(filters.SimpleFilter)


@dataclass
class Ring:
    """A synchroniser with its filters and everything that it said."""

    names: tuple[str, ...] = tuple(OFFSETS)
    reference: str = "FRONT"
    missing_camera: str = "skip"
    kind: Any = filter_stand_ins.SimpleFilter
    max_spread_ms: int = 60
    max_age_ms: int = 150
    queue_size: int = 10
    now: int = 0
    sets: list[tuple[Any, ...]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.filters = {name: self.kind() for name in self.names}
        self.synchronizer = AnchorSynchronizer(
            list(self.filters.values()),
            names=self.names,
            reference=self.reference,
            max_spread_ns=self.max_spread_ms * MS,
            max_age_ns=self.max_age_ms * MS,
            missing_camera=self.missing_camera,
            stamp_of=lambda message: message[0],
            now_ns=lambda: self.now,
            on_drop=self.dropped.append,
            on_clock_jump=self.jumps.append,
            queue_size=self.queue_size,
        )
        self.synchronizer.registerCallback(lambda *messages: self.sets.append(messages))

    def send(self, name: str, stamp: int, now: int | None = None) -> None:
        self.now = self.now if now is None else now
        self.filters[name].signalMessage((stamp, name))

    def play(self, events: list[tuple[int, str, int]]) -> None:
        """Send (arrival, name, stamp) by arrival, with the node's timer in between."""
        for arrival, name, stamp in sorted(events):
            while self.now + 20 * MS < arrival:
                self.now += 20 * MS
                self.synchronizer.expire()
            self.send(name, stamp, arrival)

    def stamps(self) -> list[tuple[int | None, ...]]:
        return [tuple(None if m is None else m[0] - START for m in messages) for messages in self.sets]


def ring_events(count: int, *, without: tuple[str, ...] = (), late: dict[str, int] | None = None) -> list[Any]:
    """(arrival, name, stamp) of some rounds of the ring; arrival is 5 ms after the stamp, and later for who is late."""
    return [
        (k * PERIOD + offset + 5 * MS + (late or {}).get(name, 0) + 100 * MS, name, START + k * PERIOD + offset)
        for k in range(count)
        for name, offset in OFFSETS.items()
        if name not in without
    ]


def right_set(k: int) -> tuple[int, ...]:
    return tuple(k * PERIOD + offset for offset in OFFSETS.values())


@pytest.mark.parametrize("kind", FILTERS)
def test_a_spread_ring_gives_every_set(kind: Any) -> None:
    ring = Ring(kind=kind)
    ring.play(ring_events(120))
    assert ring.stamps() == [right_set(k) for k in range(120)]
    assert ring.dropped == []


def test_a_set_waits_for_no_more_than_its_last_camera() -> None:
    ring = Ring()
    emitted: list[int] = []
    ring.synchronizer.registerCallback(lambda *messages: emitted.append(ring.now))
    ring.play(ring_events(20))
    waits = [at - (k * PERIOD + 105 * MS) for k, at in enumerate(emitted)]
    assert waits == [OFFSETS["BACK_LEFT"]] * 20


def test_an_image_long_before_the_anchor_waits_for_the_next_one() -> None:
    ring = Ring(names=("A", "B"), reference="A", max_spread_ms=100)
    ring.send("B", START - 45 * MS)
    ring.send("A", START)
    assert ring.sets == []
    ring.send("B", START + 38 * MS)
    assert ring.stamps() == [(0, 38 * MS)]
    # By now the period of B is known, and no image can come that is nearer than this one.
    ring.send("B", START + 121 * MS)
    ring.send("A", START + 150 * MS)
    assert ring.stamps()[1] == (150 * MS, 121 * MS)


def test_one_late_camera_is_paired_with_its_own_round() -> None:
    ring = Ring(max_spread_ms=100)
    ring.play(ring_events(100, late={"BACK": 120 * MS}))
    assert ring.stamps() == [right_set(k) for k in range(100)]


def test_a_camera_later_than_the_longest_wait_is_missing_not_wrong() -> None:
    ring = Ring(max_spread_ms=60, missing_camera="blank")
    ring.play(ring_events(50, late={"BACK": 300 * MS}))
    assert len(ring.sets) >= 45
    place = list(OFFSETS).index("BACK")
    assert all(stamps[place] is None for stamps in ring.stamps())


def test_dead_camera_is_skipped_with_its_name() -> None:
    ring = Ring()
    ring.play(ring_events(20, without=("BACK",)))
    ring.now += 1000 * MS
    ring.synchronizer.expire()
    assert ring.sets == []
    assert ring.dropped == ["missing BACK"] * 20


def test_dead_camera_is_blank_and_waited_for_but_once() -> None:
    ring = Ring(missing_camera="blank")
    emitted: list[int] = []
    ring.synchronizer.registerCallback(lambda *messages: emitted.append(ring.now))
    ring.play(ring_events(20, without=("BACK",)))
    expected = [
        tuple(None if n == "BACK" else s for n, s in zip(OFFSETS, right_set(k), strict=True)) for k in range(20)
    ]
    assert ring.stamps() == expected
    waits = [at - (k * PERIOD + 105 * MS) for k, at in enumerate(emitted)]
    assert 150 * MS <= waits[0] < 175 * MS
    assert waits[-1] == OFFSETS["BACK_LEFT"]


def test_a_camera_that_comes_back_takes_part_again() -> None:
    ring = Ring(missing_camera="blank")
    ring.play([event for event in ring_events(30) if not (event[1] == "BACK" and event[2] < START + 10 * PERIOD)])
    assert ring.stamps()[0][4] is None
    assert ring.stamps()[-19:] == [right_set(k) for k in range(11, 30)]


@pytest.mark.parametrize("missing_camera", ["skip", "blank"])
def test_a_lost_image_costs_no_other_set(missing_camera: str) -> None:
    ring = Ring(missing_camera=missing_camera)
    ring.play([event for event in ring_events(10) if event[1:] != ("BACK", START + 4 * PERIOD + OFFSETS["BACK"])])
    found = ring.stamps()
    if missing_camera == "blank":
        assert found.pop(4) == (*right_set(4)[:4], None, right_set(4)[5])
    assert found == [right_set(k) for k in range(10) if k != 4]
    # The image of the round before is 58 ms older than the anchor, which another camera follows by 35 ms.
    reason = "spread of 93 ms above sync.max_spread_ms (BACK)"
    assert ring.dropped == ([reason] if missing_camera == "skip" else [])


def test_a_dead_reference_gives_nothing_and_stays_bounded() -> None:
    ring = Ring()
    ring.play(ring_events(200, without=("FRONT",)))
    assert ring.sets == []
    assert all(len(stream._entries) <= 20 for stream in ring.synchronizer._streams.values())


def test_spread_is_taken_over_the_whole_set() -> None:
    ring = Ring(names=("A", "B", "C"), reference="B", max_spread_ms=50)
    for stamp in (0, 100):
        ring.send("A", START + (stamp - 30) * MS)
        ring.send("B", START + stamp * MS)
        ring.send("C", START + (stamp + 30) * MS)
    assert ring.sets == []
    assert ring.dropped == ["spread of 60 ms above sync.max_spread_ms (A)"] * 2


def test_duplicates_are_ignored() -> None:
    ring = Ring()
    ring.play([event for event in ring_events(10) for _ in range(2)])
    assert ring.stamps() == [right_set(k) for k in range(10)]
    assert ring.synchronizer.images_ignored == {"duplicate": 60}
    assert ring.dropped == []


def test_reordered_images_find_their_sets() -> None:
    ring = Ring(max_age_ms=400)
    generator = random.Random(0)
    ring.play([(at + generator.randrange(100) * MS, name, stamp) for at, name, stamp in ring_events(50)])
    found = ring.stamps()
    assert set(found) <= {right_set(k) for k in range(50)}
    assert len(found) + len(ring.dropped) >= 49
    assert len(found) >= 40


def test_clock_that_goes_back_empties_everything() -> None:
    ring = Ring()
    ring.play(ring_events(10))
    restart = ring.now
    ring.play([(restart + at, name, stamp - 3600 * 1000 * MS) for at, name, stamp in ring_events(10)])
    back = [tuple(s - 3600 * 1000 * MS for s in right_set(k)) for k in range(10)]
    assert ring.stamps() == [right_set(k) for k in range(10)] + back
    assert ring.jumps == [START - 3600 * 1000 * MS + OFFSETS["LEFT"]]


def test_waiting_anchors_are_bounded() -> None:
    ring = Ring(names=("A", "B"), reference="A", max_age_ms=10_000, queue_size=4)
    for k in range(10):
        ring.send("A", START + k * PERIOD)
    assert ring.dropped == ["synchroniser queue full"] * 6
    ring.send("B", START + 9 * PERIOD)
    assert ring.stamps() == [(9 * PERIOD, 9 * PERIOD)]


def test_own_clock_that_goes_back_does_not_lengthen_the_wait() -> None:
    ring = Ring(names=("A", "B"), reference="A", missing_camera="blank")
    ring.send("A", START, now=10_000 * MS)
    ring.now = 0
    ring.synchronizer.expire()
    ring.now = 160 * MS
    ring.synchronizer.expire()
    assert ring.stamps() == [(0, None)]


def test_a_callback_that_throws_leaves_no_lock_behind() -> None:
    ring = Ring(names=("A",), reference="A")

    def fail(*messages: Any) -> None:
        raise RuntimeError("broken")

    connection = ring.synchronizer.registerCallback(fail)
    with pytest.raises(RuntimeError, match="broken"):
        ring.send("A", START)
    del ring.synchronizer.callbacks[connection]
    ring.send("A", START + PERIOD)
    assert ring.stamps()[-1] == (PERIOD,)


def test_reference_must_be_a_camera() -> None:
    with pytest.raises(ValueError, match=r"reference_camera is 'TOP'.*FRONT"):
        Ring(reference="TOP")


def test_nearest_of_two_equally_near_is_the_earlier() -> None:
    stream = Stream(10)
    assert stream.add(100, "early")
    assert stream.add(200, "late")
    assert not stream.add(100, "again")
    assert stream.nearest(150, 50) == (100, "early")
    assert stream.nearest(150, 49) is None
    assert stream.nearest(151, 50) == (200, "late")


def test_approximate_time_needs_message_filters() -> None:
    if filters.HAS_MESSAGE_FILTERS:
        assert filters.approximate_time([filters.SimpleFilter()], queue_size=2, slop=0.1) is not None
        return
    with pytest.raises(ValueError, match="message_filters"):
        filters.approximate_time([filters.SimpleFilter()], queue_size=2, slop=0.1)
