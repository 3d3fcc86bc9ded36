import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bevdistill_ros.interface.shared_memory import SHARED_MEMORY, remove_leftovers

pytestmark = pytest.mark.ros

NODE = """
import sys, time
import rclpy
rclpy.init()
node = rclpy.create_node("holder")
print("ready", flush=True)
time.sleep(600)
"""


def segments_of(pid: int) -> set[str]:
    """Segments of shared memory that a process has mapped, except those of ports."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = {Path(line.split(maxsplit=5)[-1]).name for line in lines if "/dev/shm/fast" in line}
    return {name for name in names if "port" not in name}


def holder(domain: int) -> subprocess.Popen[str]:
    """A process with a node, alone in its domain, so that it maps no segment of another process."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    process = subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_segments_of_killed_processes_are_removed_and_those_of_living_ones_stay() -> None:
    domain = 102 + 2 * (os.getpid() % 60)  # other tests use those up to 101
    killed, living = holder(domain), holder(domain + 1)
    try:
        left, held = segments_of(killed.pid), segments_of(living.pid) - segments_of(killed.pid)
        if not left:
            pytest.skip("the middleware uses no shared memory of Fast DDS")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert all((SHARED_MEMORY / name).exists() for name in left)
        removed = remove_leftovers(min_age_s=0.0)
        assert removed.count >= 1
        own = {name for name in left if (SHARED_MEMORY / name).exists()}
        assert not own, own
        assert all((SHARED_MEMORY / name).exists() for name in held)
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()


def test_what_is_not_a_segment_stays(tmp_path: Path) -> None:
    for name in ("fastdds_port7411_el", "fastdds_zz_el", "other_0123456789abcdef_el", "fastdds_0123456789abcdef"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "fastdds_aaaaaaaaaaaaaaaa_el")
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "fastdds_bbbbbbbbbbbbbbbb_el").symlink_to(tmp_path / "target")
    remove_leftovers(tmp_path, min_age_s=0.0)
    assert (tmp_path / "target").exists()
    assert len(list(tmp_path.iterdir())) >= 6
    (tmp_path / "fastdds_0123456789abcdef_el").touch()
    assert remove_leftovers(tmp_path, min_age_s=60.0).count == 0  # only just made
    removed = remove_leftovers(tmp_path, min_age_s=0.0)
    assert removed.count == 1
    assert str(removed) == "1 shared-memory segments (0 MB) that killed processes left"


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a: [", ["--params-file"]),
        ("/**:\n  ros__parameters: [1, 2]\n", ["--params-file"]),
        ("a\x00b", ["--params-file"]),
        ("{" * 3000, ["--params-file"]),
        (None, ["--params-file"]),  # a pipe
        ("", ["--remap"]),
        ("", ["--no-such-option"]),
    ],
)
@pytest.mark.timeout(60)  # a pipe would be waited for without end
def test_a_damaged_parameter_file_is_one_line(
    tmp_path: Path, content: str | None, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    from bevdistill_ros.node.detector_node import main

    path = tmp_path / "node.yaml"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(SystemExit, match="1"):
        main(["node", "--ros-args", *options, str(path)])
    said = "".join(capfd.readouterr())
    lines = [line for line in said.splitlines() if "[FATAL]" in line]
    assert len(lines) == 1, said
    assert "node.yaml" in lines[0]
