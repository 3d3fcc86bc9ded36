"""Table, settings and child processes of the node benchmark; without ROS."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import yaml

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from training.benchmark.node.drive_plan import DriveLog, DrivePlan
from training.benchmark.node.overhead import (
    Measured,
    NodeBenchConfig,
    _command,
    environment_with,
    measure,
    node_parameters,
    table,
)
from training.benchmark.node.pictures import PICTURE_SIZE, write_pictures
from training.replay.process import Child, usage_of


def log(cpu_s: float, trips_ms: tuple[float, ...] = (10.0, 20.0), **stages: tuple[float, ...]) -> DriveLog:
    return DriveLog(sets_sent=3, round_trips_ms=trips_ms, cpu_s=cpu_s, stages_ms=stages)


def test_rounds_are_put_together() -> None:
    found = Measured.of([log(0.03, decode=(1.0, 2.0)), log(0.05, (30.0,), decode=(3.0,))])
    assert found.sets_sent == 6
    assert found.sets_lost == 3
    assert found.cpu_ms == pytest.approx(80 / 3)  # 80 ms for the three sets that were answered
    assert found.round_trips_ms == (10.0, 20.0, 30.0)
    assert found.stages_ms == {"decode": (1.0, 2.0, 3.0)}


def test_the_last_line_is_the_ratio() -> None:
    measured = {"ours": Measured.of([log(0.02, decode=(1.0, 3.0))]), "naive": Measured.of([log(0.08)])}
    lines = table(NodeBenchConfig(rate_hz=10.0), measured).splitlines()
    assert lines[-1] == "cpu ratio (ours / naive): 0.25"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("  ", "ours", "naive"))}
    assert rows["decode"] == ["2.0", "2.9", "3.0"]
    assert rows["naive"] == ["3", "1", "40.0"]
    # p95 of 10 and 20 ms is 19.5 ms, of a period of 100 ms.
    assert next(line for line in lines if line.startswith("  ours")).split() == ["ours", "15.0", "19.5", "20.0", "0.20"]


def test_a_bundle_is_driven_in_the_engine_that_was_asked_for(tmp_path: Path) -> None:
    config = NodeBenchConfig(bundle=Path("runs/bundle"), engine="openvino", precision="int8")
    module, *_, parameters = _command(config, "ours", tmp_path)
    assert module == "bevdistill_ros.node.detector_node"
    given = yaml.safe_load(Path(parameters).read_text())["/**"]["ros__parameters"]
    assert (given["engine"], given["precision"]) == ("openvino", "int8")
    assert given["bundle"] == str(Path("runs/bundle").absolute())
    measured = {"ours": Measured.of([log(0.02, inference=(30.0, 36.0, 40.0))])}
    text = table(config, measured, own=30.0)
    assert "bundle bundle in engine openvino, int8" in text
    assert "inference in the node / engine alone at the same rate (30.0 ms): 1.20" in text


def test_both_kinds_of_fast_dds_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def drive_once(config: NodeBenchConfig, name: str, kind: str, folder: Path, number: int) -> DriveLog:
        seen.append((name, kind))
        return log(0.02)

    monkeypatch.setattr("training.benchmark.node.overhead._drive_once", drive_once)
    monkeypatch.setattr("training.benchmark.node.overhead.write_pictures", lambda folder: None)
    config = NodeBenchConfig(dds="both", detectors=("ours",), rounds=2, progress=False)
    measured = measure(config)
    assert list(measured) == ["ours", "ours, Fast DDS as it comes"]
    assert seen == [("ours", "profile"), ("ours", "default")] * 2
    assert list(measure(NodeBenchConfig(dds="default", rounds=1, progress=False))) == ["ours", "naive"]


def test_drops_are_told_with_their_reasons() -> None:
    dropped = DriveLog(sets_sent=3, round_trips_ms=(1.0,), cpu_s=0.1, drops={"missing LEFT": 2})
    lines = table(NodeBenchConfig(), {"ours": Measured.of([dropped, dropped])}).splitlines()
    assert lines[-1].endswith("  missing LEFT (4)")


def test_without_the_naive_node_there_is_no_ratio() -> None:
    assert "ratio" not in table(NodeBenchConfig(detectors=("ours",)), {"ours": Measured.of([log(0.02)])})


def test_a_node_that_answers_nothing_gives_no_error() -> None:
    assert "nan" in table(NodeBenchConfig(), {"naive": Measured.of([log(0.1, ())])})


def test_plan_and_log_come_back_from_their_files(tmp_path: Path) -> None:
    plan = DrivePlan(
        receiver_pid=1,
        pictures="p",
        cameras=("A", "B"),
        transport="raw",
        rate_hz=12.0,
        warm_up_s=1.0,
        seconds=2.0,
        start_timeout_s=3.0,
    )
    plan.write(tmp_path / "plan.json")
    assert DrivePlan.read(tmp_path / "plan.json") == plan
    log(0.5, decode=(1.0,)).write(tmp_path / "log.json")
    assert DriveLog.read(tmp_path / "log.json") == log(0.5, decode=(1.0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rate_hz": 0.0}, "rate_hz"), ({"seconds": 0.01}, "time for a set"), ({"rounds": 0}, "rounds")],
)
def test_bad_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeBenchConfig(**changes)


def test_environment_has_our_profile_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/of/the/user.xml")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/of/the/user.xml")
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    default, ours = environment_with("default"), environment_with("profile")
    assert not {name for name in default if name.endswith("DEFAULT_PROFILES_FILE")}
    added = ours.keys() - default.keys()
    assert added == {"FASTDDS_DEFAULT_PROFILES_FILE"}
    assert Path(ours[added.pop()]).is_file()


def test_parameters_name_the_rig_of_the_pictures(tmp_path: Path) -> None:
    content = yaml.safe_load(node_parameters(tmp_path, transport="raw").read_text())["/**"]["ros__parameters"]
    rig = CameraRig.from_dict(yaml.safe_load(Path(content["rig_file"]).read_text()))
    assert rig.names == NUSCENES_CAMERAS
    assert rig.image_size == PICTURE_SIZE
    assert content["transport"] == "raw"


def test_pictures_are_as_large_as_those_of_real_cameras(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.stem for file in files] == sorted(NUSCENES_CAMERAS)
    assert all(100_000 < file.stat().st_size < 200_000 for file in files)
    assert cv2.imread(str(files[0])).shape == (*PICTURE_SIZE, 3)


def test_usage_of_a_process_is_what_it_used() -> None:
    before = usage_of(os.getpid())
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    block = bytearray(os.urandom(1000)) * 50_000
    after = usage_of(os.getpid())
    assert 0.15 <= after.cpu_s - before.cpu_s <= 1.0
    assert 40 <= after.memory_mb - before.memory_mb <= 120
    assert after.threads >= 1
    assert len(block) == 50_000_000


def test_usage_of_an_ended_process_is_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError, match="has ended"):
        usage_of(child.pid)


def test_a_child_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    with (
        Child(["json.tool", "/no/such/file"], tmp_path / "log", os.environ) as child,
        pytest.raises(ChildProcessError, match=r"json.tool ended with code [12](.|\n)*No such file"),
    ):
        child.wait(20)


def test_a_child_is_ended_with_its_context(tmp_path: Path) -> None:
    with Child(["http.server", "--bind", "127.0.0.1", "0"], tmp_path / "log", os.environ) as child:
        assert not child.wait(0.5)
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        usage_of(pid)
