"""What stamps show about a stream: hand-made streams of known rate, age, loss and spread."""

import math

import numpy as np
import pytest

from bevdistill_ros.doctor.streams import Evidence, Stream, loss_of, period_of, spreads_ms

MS = 1_000_000
NOTHING = Stream(stamps_ns=(), arrivals_ns=())


def stream(stamps_ms: list[float], *, age_ms: float = 5.0) -> Stream:
    stamps = [round(stamp * MS) for stamp in stamps_ms]
    return Stream(stamps_ns=tuple(stamps), arrivals_ns=tuple(stamp + round(age_ms * MS) for stamp in stamps))


def twelve_hertz(count: int, *, without: set[int] = frozenset(), jitter_ms: float = 0.0) -> list[float]:  # type: ignore[assignment]
    random = np.random.default_rng(0)
    stamps = 1000.0 + np.arange(count) * 1000 / 12 + random.uniform(-jitter_ms, jitter_ms, count)
    return [float(stamp) for place, stamp in enumerate(stamps) if place not in without]


def test_rate_age_and_order() -> None:
    steady = stream(twelve_hertz(25), age_ms=14.0)
    assert steady.rate_hz == pytest.approx(12.0)
    assert steady.age_ms == pytest.approx(14.0)
    assert (steady.repeated, steady.goes_back) == (0, False)
    assert stream([1, 2, 2, 3]).repeated == 1
    assert stream([1, 3, 2]).goes_back
    assert math.isnan(NOTHING.age_ms)
    assert math.isnan(stream([7.0]).rate_hz)


@pytest.mark.parametrize("jitter_ms", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("lost", [0.0, 0.1, 0.4, 0.65])
def test_period_and_loss_whatever_is_lost(lost: float, jitter_ms: float) -> None:
    random = np.random.default_rng(1)
    without = {place for place in range(1, 95) if random.random() < lost}
    images = stream(twelve_hertz(96, without=without, jitter_ms=jitter_ms))
    assert images.period_s == pytest.approx(1 / 12, rel=0.06)
    loss = loss_of(images, NOTHING)
    assert loss is not None
    assert loss.missing == pytest.approx(len(without), abs=0 if jitter_ms == 0 else 2)
    assert loss.evidence is Evidence.GAPS


def test_what_is_not_periodic_tells_no_loss() -> None:
    random = np.random.default_rng(2)
    images = stream(list(np.cumsum(random.exponential(80.0, 60))))
    assert images.period_s is None
    assert loss_of(images, NOTHING) is None
    assert period_of((0, 100, 200)) is None
    assert loss_of(NOTHING, NOTHING) is None


def test_every_second_image_lost_is_seen_by_camera_info_only() -> None:
    infos, images = twelve_hertz(40), twelve_hertz(40)[::2]
    assert loss_of(stream(images), NOTHING).missing == 0  # type: ignore[union-attr]
    loss = loss_of(stream(images), stream(infos))
    assert loss is not None
    assert (loss.missing, loss.expected, loss.evidence) == (19, 39, Evidence.CAMERA_INFO)
    assert loss.ratio == pytest.approx(19 / 39)


def test_gaps_in_both_may_be_the_drivers() -> None:
    stamps = stream(twelve_hertz(40, without={5, 6, 20}))
    loss = loss_of(stamps, stamps)
    assert loss is not None
    assert (loss.missing, loss.evidence) == (3, Evidence.GAPS_IN_BOTH)


def test_what_both_lost_counts_too() -> None:
    images, infos = twelve_hertz(40, without={5, 6, 20, 21}), twelve_hertz(40, without={5, 6})
    loss = loss_of(stream(images), stream(infos))
    assert loss is not None
    assert (loss.missing, loss.expected, loss.evidence) == (4, 40, Evidence.CAMERA_INFO)


def test_camera_info_with_stamps_of_its_own_proves_nothing() -> None:
    infos = [stamp + 20.0 for stamp in twelve_hertz(40)]
    loss = loss_of(stream(twelve_hertz(40)), stream(infos))
    assert loss is not None
    assert (loss.missing, loss.evidence) == (0, Evidence.GAPS)


def test_camera_info_before_and_after_the_images_is_no_loss() -> None:
    loss = loss_of(stream(twelve_hertz(40)[3:-3]), stream(twelve_hertz(40)))
    assert loss is not None
    assert loss.missing == 0


def test_spread_is_that_of_the_nearest_images() -> None:
    streams = {"A": stream([100, 200, 300]), "B": stream([110, 205, 290]), "C": stream([90, 230, 310])}
    # Around 200: 205 and 230. 100 and 300 have not all cameras around them.
    np.testing.assert_allclose(spreads_ms(streams, "A"), [30.0])


def test_spread_where_one_image_is_lost() -> None:
    streams = {"A": stream([0, 100, 200, 300]), "B": stream([0, 200, 300])}
    assert sorted(spreads_ms(streams, "A")) == [0.0, 0.0, 0.0, 100.0]


def test_spread_without_a_common_time() -> None:
    assert len(spreads_ms({"A": stream([0, 1]), "B": stream([5, 6])}, "A")) == 0
    assert len(spreads_ms({"A": stream([0, 1]), "B": NOTHING}, "A")) == 0
