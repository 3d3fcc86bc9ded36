"""Recent messages of one camera."""

from bevdistill_ros.node.sync.stream import Stream


def test_nearest_of_two_equally_near_is_the_earlier() -> None:
    stream = Stream(10)
    stream.add(200, "late")
    stream.add(100, "early")
    assert stream.has(100)
    assert not stream.has(150)
    assert stream.nearest(150, 50) == (100, "early")
    assert stream.nearest(150, 49) is None
    assert stream.nearest(151, 50) == (200, "late")
