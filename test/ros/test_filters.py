"""The synchroniser of message_filters, where it is installed."""

from types import SimpleNamespace
from typing import Any

import pytest

from bevdistill_ros.node.sync import filters

MS = 1_000_000


def test_approximate_time_needs_message_filters() -> None:
    if filters.HAS_MESSAGE_FILTERS:
        pytest.skip("message_filters is installed")
    with pytest.raises(ValueError, match="message_filters"):
        filters.approximate_time([filters.SimpleFilter()], queue_size=2, slop=0.1)


@pytest.mark.skipif(not filters.HAS_MESSAGE_FILTERS, reason="message_filters comes with a ROS distribution")
def test_approximate_time_goes_on_after_stamps_went_back() -> None:
    messages = pytest.importorskip("std_msgs.msg")
    times = pytest.importorskip("builtin_interfaces.msg")

    def message(second: int) -> Any:
        return SimpleNamespace(header=messages.Header(stamp=times.Time(sec=second)))

    sources = [filters.SimpleFilter(), filters.SimpleFilter()]
    jumps: list[int] = []
    synchronizer = filters.approximate_time(
        sources, queue_size=3, slop=0.1, stamp_of=lambda m: m.header.stamp.sec * 1000 * MS, on_clock_jump=jumps.append
    )
    sets: list[tuple[int, ...]] = []
    synchronizer.registerCallback(lambda *found: sets.append(tuple(m.header.stamp.sec for m in found)))
    # The other camera's image of the old time waits in vain.
    for second in (100, 101, 102, 103):
        sources[0].signalMessage(message(second))
    for second in (50, 51):
        sources[0].signalMessage(message(second))
        sources[1].signalMessage(message(second))
    assert sets == [(50, 50), (51, 51)]
    assert jumps == [50_000 * MS]
