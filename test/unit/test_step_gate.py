"""The pace at which a node is fed set by set."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from training.bag.read_bag import BagMessage
from training.replay import step_gate
from training.replay.step_gate import StepGate

MS = 1_000_000
PERIOD = 100 * MS
START = 1_600_000_000_000_000_000
MAX_AGE = 150 * MS


@dataclass
class Node:
    """Says what a test lets it say."""

    settled: set[int] = field(default_factory=set)
    clock_ns: int | None = None

    def expect(self, stamp_ns: int) -> None:
        self.settled.discard(stamp_ns)

    def is_settled(self, stamp_ns: int) -> bool:
        return stamp_ns in self.settled


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def gate(node: Node) -> StepGate:
    return StepGate(
        "A",
        ("A", "B"),
        answers=node,
        clock_ns=lambda: node.clock_ns,
        max_spread_ns=100 * MS,
        max_age_ns=MAX_AGE,
        timeout_s=10.0,
    )


def image(topic: str, number: int, late: int = 0) -> BagMessage:
    stamp = START + number * PERIOD
    return BagMessage(topic=topic, message_type="", received_ns=stamp + late, stamp_ns=stamp, data=b"")


def play(gate: StepGate, node: Node, messages: Iterable[BagMessage], on_held: Callable[[int], None]) -> list[int]:
    """Let messages out in turn; returns the numbers of those that were held, which `on_held` is called with."""
    held = []
    for message in messages:
        if not gate(message):
            held.append((message.stamp_ns - START) // PERIOD)
            on_held(held[-1])
            assert gate(message), "held for ever"
        node.clock_ns = message.received_ns
    return held


def stamps(*numbers: int) -> set[int]:
    return {START + number * PERIOD for number in numbers}


def test_a_set_is_waited_for_once_its_images_are_out(gate: StepGate, node: Node) -> None:
    messages = [image(topic, number) for number in range(4) for topic in "AB"]
    assert play(gate, node, messages, lambda number: node.settled.update(stamps(number - 1))) == [1, 2, 3]


def test_an_image_that_is_later_than_the_next_set_is_let_out(gate: StepGate, node: Node) -> None:
    """A set is complete only with it; that of the set before is near enough, but not its own."""
    messages = sorted(
        [image("A", number) for number in range(6)] + [image("B", number, 120 * MS) for number in range(6)],
        key=lambda message: message.received_ns,
    )
    held = play(gate, node, messages, lambda number: node.settled.update(stamps(number - 2)))
    assert held == [2, 3, 4, 5]


def test_a_set_that_lacks_an_image_is_waited_for_once_the_node_has_given_it_up(gate: StepGate, node: Node) -> None:
    messages = [image(topic, number) for number in range(6) for topic in "AB" if (topic, number) != ("B", 0)]

    def settle(number: int) -> None:
        node.settled |= stamps(number - 1)
        if number == 4:
            assert not gate(image("A", 4)), "set 0 was not waited for"
            node.settled |= stamps(0)

    assert play(gate, node, messages, settle) == [2, 3, 4, 5]


def test_nobody_is_waited_for_for_ever(gate: StepGate, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(step_gate.time, "perf_counter", lambda: now[0])
    for message in (image("A", 0), image("B", 0)):
        assert gate(message)
    assert not gate(image("A", 1))
    now[0] += 9.0
    assert not gate(image("A", 1))
    now[0] += 2.0
    assert gate(image("A", 1))


def test_the_second_time_of_a_recording_that_loops_is_waited_for_too(gate: StepGate, node: Node) -> None:
    messages = [image(topic, number) for _ in range(2) for number in range(3) for topic in "AB"]
    assert play(gate, node, messages, lambda number: node.settled.update(stamps((number - 1) % 3))) == [1, 2, 0, 1, 2]
