"""The anchor synchroniser, without ROS: a message is a (stamp, name) pair, and time is a number that the test turns."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from bevdistill_ros.node.records import DroppedSet
from bevdistill_ros.node.sync import filter_stand_ins, filters
from bevdistill_ros.node.sync.anchor import AnchorSynchronizer

MS = 1_000_000
PERIOD = 83 * MS
# A nuScenes ring: the cameras fire one after the other as the LiDAR passes.
OFFSETS = {"LEFT": -8 * MS, "FRONT": 0, "RIGHT": 8 * MS, "BACK_RIGHT": 15 * MS, "BACK": 25 * MS, "BACK_LEFT": 35 * MS}
START = 1_500_000_000 * 1000 * MS

FILTERS = [filter_stand_ins.SimpleFilter]
if filters.HAS_MESSAGE_FILTERS:
    FILTERS.append(filters.SimpleFilter)

REPEATED = "an image with the stamp of an earlier one is ignored: does a recording of under a second loop?"


@dataclass
class Ring:
    """A synchroniser with its filters and everything that it said."""

    names: tuple[str, ...] = tuple(OFFSETS)
    reference: str = "FRONT"
    missing_camera: str = "skip"
    kind: Any = filter_stand_ins.SimpleFilter
    max_spread_ms: int = 60
    max_age_ms: int = 150
    camera_timeout_ms: int = 1000
    queue_size: int = 10
    now: int = 0
    sets: list[tuple[Any, ...]] = field(default_factory=list)
    lost: list[DroppedSet] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.filters = {name: self.kind() for name in self.names}
        self.synchronizer = AnchorSynchronizer(
            list(self.filters.values()),
            names=self.names,
            reference=self.reference,
            max_spread_ns=self.max_spread_ms * MS,
            max_age_ns=self.max_age_ms * MS,
            camera_timeout_ns=self.camera_timeout_ms * MS,
            missing_camera=self.missing_camera,
            stamp_of=lambda message: message[0],
            now_ns=lambda: self.now,
            on_drop=self.lost.append,
            on_ignored=lambda *what: self.ignored.append(what),
            on_clock_jump=self.jumps.append,
            queue_size=self.queue_size,
        )
        self.synchronizer.registerCallback(lambda *messages: self.sets.append(messages))

    @property
    def dropped(self) -> list[str]:
        return [entry.reason for entry in self.lost]

    def send(self, name: str, stamp: int, now: int | None = None) -> None:
        self.now = self.now if now is None else now
        self.filters[name].signalMessage((stamp, name))

    def play(self, events: list[tuple[int, str, int]]) -> None:
        """Send (arrival, name, stamp) by arrival, with the node's timer in between."""
        for arrival, name, stamp in sorted(events):
            for look in range(self.now // (20 * MS) + 1, arrival // (20 * MS) + 1):
                self.now = look * 20 * MS
                self.synchronizer.expire()
            self.send(name, stamp, arrival)

    def give_up(self) -> None:
        """Look twice, as a set is given up at the second look."""
        self.synchronizer.expire()
        self.synchronizer.expire()

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


def test_images_that_came_while_the_process_was_stalled_are_used() -> None:
    ring = Ring(names=("A", "B"), reference="A")
    ring.send("A", START)
    ring.synchronizer.expire()
    ring.now += 1000 * MS
    ring.synchronizer.expire()  # a timer goes before the messages that wait
    ring.send("B", START + 5 * MS)
    assert (ring.stamps(), ring.dropped) == ([(0, 5 * MS)], [])


def test_dead_camera_is_skipped_with_its_name() -> None:
    ring = Ring()
    ring.play(ring_events(20, without=("BACK",)))
    ring.now += 1000 * MS
    ring.give_up()
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
    assert 150 * MS <= waits[0] < 195 * MS
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


def test_a_dead_reference_is_missing_like_any_camera() -> None:
    ring = Ring()
    ring.play(ring_events(200, without=("FRONT",)))
    ring.now += 1000 * MS
    ring.give_up()
    assert ring.sets == []
    # In the first second it might still have come.
    assert ring.dropped == ["missing FRONT"] * (200 - 12)
    assert ring.lost[0].stamps_ns[1] is None
    assert ring.lost[0].stamp_ns == START + 12 * PERIOD + OFFSETS["BACK_RIGHT"]
    assert all(len(stream._entries) <= 20 for stream in ring.synchronizer._streams.values())


def test_another_camera_stands_in_for_a_dead_reference() -> None:
    ring = Ring(missing_camera="blank")
    dead = {START + k * PERIOD for k in range(20, 60)}
    ring.play([event for event in ring_events(90) if event[2] not in dead])
    # Sets of the first second without the reference have no anchor, and are counted once another camera has taken over.
    lost = [entry.stamp_ns - START for entry in ring.lost]
    assert ring.dropped == ["missing FRONT"] * len(lost)
    blank = [stamps for stamps in ring.stamps() if stamps[1] is None]
    whole = [stamps for stamps in ring.stamps() if stamps[1] is not None]
    assert whole == [right_set(k) for k in range(90) if not 20 <= k < 60]
    first = 60 - len(blank)
    assert blank == [(right_set(k)[0], None, *right_set(k)[2:]) for k in range(first, 60)]
    assert lost == pytest.approx([k * PERIOD for k in range(20, first)], abs=20 * MS)
    assert 11 <= len(lost) <= 13


def test_a_reference_that_was_held_up_counts_no_set_twice() -> None:
    ring = Ring(missing_camera="blank", max_age_ms=500)
    # For 1.5 s nothing of the reference gets through, then all of it at once.
    held = [
        (max(at, 3_500 * MS) if name == "FRONT" and k >= 20 else at, name, s)
        for k in range(60)
        for at, name, s in ring_events(60)[6 * k : 6 * k + 6]
    ]
    ring.play(held)
    numbers = [round((stamps[2] or 0) / PERIOD) for stamps in ring.stamps()]
    lost = [round((entry.stamp_ns - START) / PERIOD) for entry in ring.lost]
    assert sorted(numbers + lost) == list(range(60))


@pytest.mark.parametrize("missing_camera", ["skip", "blank"])
def test_a_set_whose_reference_image_is_lost_is_counted(missing_camera: str) -> None:
    ring = Ring(missing_camera=missing_camera)
    ring.play(
        [event for event in ring_events(30) if event[1:] not in {("FRONT", START + k * PERIOD) for k in (9, 20, 21)}]
    )
    assert ring.stamps() == [right_set(k) for k in range(30) if k not in (9, 20, 21)]
    assert [(entry.reason, entry.stamp_ns) for entry in ring.lost] == [
        ("missing FRONT", START + k * PERIOD) for k in (9, 20, 21)
    ]
    assert ring.lost[0].stamps_ns[1] is None
    assert ring.lost[0].stamps_ns[4] == START + 9 * PERIOD + OFFSETS["BACK"]


def test_a_pause_of_the_whole_ring_is_no_lost_set() -> None:
    ring = Ring(missing_camera="blank")
    ring.play([event for event in ring_events(60) if not 20 <= (event[2] - START + 10 * MS) // PERIOD < 40])
    assert ring.stamps() == [right_set(k) for k in range(60) if not 20 <= k < 40]
    assert ring.dropped == []


def rough_events(generator: random.Random, count: int) -> list[tuple[int, str, int]]:
    """A ring that loses one image in twenty, and whose cameras jitter, are held up, and may die for a while."""
    events = []
    for name, offset in OFFSETS.items():
        held = generator.randrange(5, count - 50)
        held_until = held + generator.randrange(25)
        dies = generator.randrange(5, count - 50)
        dead = range(dies, dies + generator.randrange(30) if generator.random() < 0.3 else dies)
        arrival = 0
        for k in range(count):
            if k in dead or (k > 4 and generator.random() < 0.05):
                continue
            sent = max(k, held_until) if held <= k < held_until else k
            arrival = max(arrival, sent * PERIOD + offset + generator.randrange(100, 120) * MS)
            events.append((arrival, name, START + k * PERIOD + offset))
    return events


@pytest.mark.parametrize("missing_camera", ["skip", "blank"])
@pytest.mark.parametrize("seed", range(4))
def test_in_whatever_order_images_come_each_set_is_used_or_counted_once(seed: int, missing_camera: str) -> None:
    ring = Ring(missing_camera=missing_camera, max_age_ms=300)
    anchors: list[int] = []
    place = list(OFFSETS).index
    ring.synchronizer.registerCallback(lambda *found: anchors.append(found[place(ring.synchronizer.anchor)][0]))
    ring.play(rough_events(random.Random(seed), 120))
    for _ in range(50):
        ring.now += 20 * MS
        ring.synchronizer.expire()
    for stamps in ring.stamps():
        there = [stamp for stamp in stamps if stamp is not None]
        assert max(there) - min(there) <= ring.max_spread_ms * MS
    rounds = [round((stamp - START - 10 * MS) / PERIOD) for stamp in (*anchors, *(lost.stamp_ns for lost in ring.lost))]
    assert len(set(rounds)) == len(rounds), "a set was counted twice"
    # Sets whose reference image and most others are gone leave no trace.
    assert len(rounds) >= 117
    assert len(anchors) == len(ring.sets) > 5


def test_a_stamp_that_stands_still_is_told() -> None:
    ring = Ring(names=("A", "B"), reference="A")
    for k in range(5):
        ring.send("B", 0)
        ring.send("A", START + k * PERIOD, now=k * PERIOD)
    ring.now += 200 * MS
    ring.give_up()
    assert ring.dropped == ["missing B"] * 5
    assert ring.ignored == [("B", REPEATED)] * 4


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
    assert len(ring.ignored) == 60
    assert ring.ignored[0] == ("LEFT", REPEATED)
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
    ring.give_up()
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
