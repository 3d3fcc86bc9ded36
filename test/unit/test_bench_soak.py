"""Faults of the soak and the account of its sets, by hand."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from training.benchmark.node.faults import KINDS, Fault, draw_faults, fault_at, is_near
from training.benchmark.node.soak import SoakConfig, health_of, summary
from training.benchmark.node.soak_log import EDGE, HEALTHY, Fate, SentSet, SetStatus, SoakLog, account
from training.replay.process import Usage

CAMERAS = ("LEFT", "RIGHT")
RATE_HZ = 10.0
PERIOD_NS = 100_000_000
FAULT = Fault(kind="dead camera", camera="LEFT", start_s=3.0, end_s=4.0)


def test_faults_follow_from_the_seed() -> None:
    assert draw_faults(seed=3, seconds=200, cameras=CAMERAS) == draw_faults(seed=3, seconds=200, cameras=CAMERAS)
    assert draw_faults(seed=3, seconds=200, cameras=CAMERAS) != draw_faults(seed=4, seconds=200, cameras=CAMERAS)


def test_all_kinds_come_before_one_comes_again_with_health_between() -> None:
    faults = draw_faults(seed=0, seconds=400, cameras=CAMERAS)
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)
    assert {fault.camera for fault in faults} == set(CAMERAS)
    borders = [time for fault in faults for time in (fault.start_s, fault.end_s)]
    steps = [later - earlier for earlier, later in pairwise([0.0, *borders])]
    assert min(steps) >= 2.0
    assert max(steps) <= 6.0
    assert 2.0 <= 400.0 - borders[-1] <= 14.0


def test_a_fault_reigns_from_its_start_to_its_end() -> None:
    later = Fault(kind="loss", camera="LEFT", start_s=6.0, end_s=7.0)
    times = (2.99, 3.0, 3.99, 4.0, 6.5, 7.0)
    assert [fault_at((FAULT, later), time) for time in times] == [None, FAULT, FAULT, None, later, None]
    assert [is_near((FAULT,), time, 0.5) for time in (2.4, 2.5, 3.5, 4.4, 4.5)] == [False, True, True, True, False]


def drive(fates: dict[int, str], **changes: Any) -> SoakLog:
    """Sixty sets at 10 Hz, all detected but those of these numbers: dropped for a reason or, with '', unreported."""
    stamps = [10**12 + number * PERIOD_NS for number in range(60)]
    reported, processed, dropped = [], 0, 0
    for number, stamp in enumerate(stamps):
        reason = fates.get(number, "detected")
        if not reason:
            continue
        processed, dropped = processed + (reason == "detected"), dropped + (reason != "detected")
        reported.append(
            SetStatus(
                stamp_ns=stamp,
                dropped="" if reason == "detected" else reason,
                sets_processed=processed,
                sets_dropped=dropped,
            )
        )
    content = {
        "sent": tuple(
            SentSet(stamp_ns=stamp, at_s=place / RATE_HZ, num_images=6) for place, stamp in enumerate(stamps)
        ),
        "detected_ns": tuple(stamp for number, stamp in enumerate(stamps) if number not in fates),
        "reported": tuple(reported),
    }
    return SoakLog(**{**content, **changes})


def test_drops_in_a_fault_are_explained() -> None:
    result = account(drive(dict.fromkeys(range(30, 40), "missing LEFT")), [FAULT], RATE_HZ)
    assert result.unexplained == ()
    assert result.sets == 60
    assert result.fates == {
        "dead camera": Fate(sets=10, detected=0, dropped={"missing LEFT": 10}),
        HEALTHY: Fate(sets=40, detected=40, dropped={}),
        EDGE: Fate(sets=10, detected=10, dropped={}),
    }


def test_a_drop_just_after_a_fault_is_explained_by_it_and_a_later_one_is_not() -> None:
    assert account(drive({44: "clock went back"}), [FAULT], RATE_HZ).unexplained == ()
    found = account(drive({45: "clock went back"}), [FAULT], RATE_HZ).unexplained
    assert found == ("1 sets dropped while nothing was faulty: clock went back",)


def test_a_worker_that_is_busy_is_nobodys_fault() -> None:
    assert account(drive({5: "worker busy"}), [FAULT], RATE_HZ).unexplained == ()


def test_a_set_that_the_node_says_nothing_of_is_not_explained_even_in_a_fault() -> None:
    found = account(drive({35: ""}), [FAULT], RATE_HZ)
    assert found.fates["dead camera"].unreported == 1
    assert found.unexplained == ("1 sets (dead camera) were lost and the node does not report it",)


def test_a_set_without_any_image_is_not_expected() -> None:
    log = drive({35: ""})
    sent = tuple(
        SentSet(stamp_ns=entry.stamp_ns, at_s=entry.at_s, num_images=0 if place == 35 else 6)
        for place, entry in enumerate(log.sent)
    )
    assert account(drive({35: ""}, sent=sent), [FAULT], RATE_HZ).unexplained == ()


def test_the_stamp_of_a_drop_may_be_off_by_less_than_half_a_period() -> None:
    log = drive({35: "missing LEFT"})
    shifted = [
        entry if not entry.dropped else SetStatus(**{**vars(entry), "stamp_ns": entry.stamp_ns + PERIOD_NS // 3})
        for entry in log.reported
    ]
    found = account(drive({35: "missing LEFT"}, reported=tuple(shifted)), [FAULT], RATE_HZ)
    assert found.fates["dead camera"].dropped == {"missing LEFT": 1}
    assert found.unexplained == ()


def test_detections_of_no_set_and_counters_that_disagree_are_told() -> None:
    log = drive({})
    stranger = account(drive({}, detected_ns=(*log.detected_ns[1:], 17)), [], RATE_HZ)
    assert "1 detections have a stamp that no set had" in stranger.unexplained
    miscounted = account(drive({}, reported=log.reported[:-2] + log.reported[-1:]), [], RATE_HZ)
    assert "the node counts 60 sets processed and 0 dropped, but reported 59 and 0" in miscounted.unexplained
    assert "59 sets reported as processed, but 60 with detections" in miscounted.unexplained


def test_the_log_comes_back_from_its_file(tmp_path: Path) -> None:
    log = drive({3: "missing LEFT"})
    log.write(tmp_path / "log.json")
    assert SoakLog.read(tmp_path / "log.json") == log


def samples(growth_mb: float, threads: list[int]) -> list[tuple[float, Usage]]:
    """An hour, looked at each minute; at first memory grows a lot."""
    memory = [100.0 + 50 * min(minute, 1) + growth_mb * minute / 60 for minute in range(61)]
    return [
        (60.0 * minute, Usage(cpu_s=0, memory_mb=value, threads=threads[minute % len(threads)]))
        for minute, value in enumerate(memory)
    ]


@pytest.mark.parametrize(
    ("growth_mb", "threads", "is_flat"), [(4.0, [20], True), (6.0, [20], False), (-9.0, [20, 21], True)]
)
def test_health_is_judged_after_the_warm_up(growth_mb: float, threads: list[int], is_flat: bool) -> None:
    config = SoakConfig(warm_up_s=60, max_growth_mb=5, max_new_threads=0)
    health = health_of(config, samples(growth_mb, threads))
    assert health.slope_mb_per_h == pytest.approx(growth_mb)
    assert (health.least_threads, health.most_threads) == (min(threads), max(threads))
    assert health.is_flat is is_flat


def test_more_threads_in_the_end_are_not_flat() -> None:
    config = SoakConfig(max_new_threads=1)
    assert not health_of(config, samples(0.0, list(range(61)))).is_flat


def test_summary_says_what_is_wrong() -> None:
    config = SoakConfig(minutes=1)
    well, ill = samples(1.2, [20]), samples(60.0, [20])
    good = summary(config, health_of(config, well), account(drive({}), [FAULT], RATE_HZ), [FAULT])
    assert "every set was detected" in good
    assert "+1.20 MB/h over 59.0 min after the warm-up; threads 20 to 20: flat" in good
    bad = summary(config, health_of(config, ill), account(drive({1: "failed: KeyError"}), [FAULT], RATE_HZ), [FAULT])
    assert "NOT EXPLAINED: 1 sets dropped while nothing was faulty: failed: KeyError" in bad
    assert bad.splitlines()[-2].endswith("NOT FLAT")


@pytest.mark.parametrize(("changes", "message"), [({"minutes": 0.1}, "10 s"), ({"rate_hz": 0.0}, "rate_hz")])
def test_bad_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoakConfig(**changes)
