"""Cameras that are stamped by another clock."""

import pytest

from bevdistill_ros.node.sync.clocks import PATIENCE, ClockWatch

SECOND = 1_000_000_000
START = 1_700_000_000


def drive(offsets: dict[str, float], rounds: int = 10) -> dict[str, str]:
    """The last word about each camera, whose stamps are off by so much [s]."""
    watch, said = ClockWatch(), {}
    for step in range(rounds):
        for camera, offset in offsets.items():
            at = START + step / 10 + offset
            said[camera] = watch.check(camera, round(at * SECOND), step / 10 + 0.02)
    return said


@pytest.mark.parametrize("offset", [37.0, -37.0, 3600.0])
def test_camera_with_another_clock_is_named_with_the_difference(offset: float) -> None:
    said = drive({"FRONT": 0.0, "LEFT": offset, "RIGHT": 0.004})
    assert (
        f"its stamps are {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} those of the other"
        in said["LEFT"]
    )
    assert ("TAI" in said["LEFT"]) == (abs(offset) == 37.0)
    assert said["FRONT"] == said["RIGHT"] == ""


def test_of_two_cameras_each_is_off_against_the_other() -> None:
    said = drive({"FRONT": 0.0, "LEFT": 37.0})
    assert "37.0 s ahead of" in said["LEFT"]
    assert "37.0 s behind" in said["FRONT"]


def test_late_cameras_are_of_the_same_clock() -> None:
    assert set(drive({"FRONT": 0.0, "LEFT": -0.4, "RIGHT": 0.3}).values()) == {""}


def test_a_recording_that_starts_again_is_not_another_clock() -> None:
    watch = ClockWatch()
    for stamp in (100.0, 100.1, 0.0, 0.1):
        for camera in ("A", "B", "C"):
            assert watch.check(camera, round((START + stamp) * SECOND), stamp % 100) == ""
    assert PATIENCE > 1


def test_stamps_of_zero_are_named() -> None:
    assert "its stamps are 0" in ClockWatch().check("A", 0, 1.0)
