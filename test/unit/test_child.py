import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bevdistill_ros.core.lock import locked_folder

SLEEPER = """
import os, pathlib, signal, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
PARENT = """
import subprocess, sys
import training.parallel.child as child
child.GRACE_S = 0.5
command = child.module_command(*sys.argv[1:])
command = [*command[:2], "-c", f"import training.parallel.child as c; c.GRACE_S = 0.5; c.main()", *command[4:]]
subprocess.Popen(command).wait()
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", ["willing", "stubborn"])
def test_a_child_ends_with_its_parent(tmp_path: Path, kind: str) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    started = tmp_path / "pid"
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, "sleeper", str(started), kind], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        deadline = time.monotonic() + 60
        while not (started.exists() and started.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.wait()
    child, deadline = int(started.read_text()), time.monotonic() + 30
    while is_alive(child):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child outlived its parent")
        time.sleep(0.05)


def test_a_child_whose_parent_has_ended_already_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.parallel.child", "1", "this"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "process 1, which started this one, has ended\n"


def test_the_working_folder_holds_no_modules_of_a_child(tmp_path: Path) -> None:
    """A folder of data may hold a module of any name, and that would run instead of the library."""
    from training.parallel.child import module_command

    (tmp_path / "yaml.py").write_text("raise SystemExit('planted')")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "asks.py").write_text("import yaml; print(yaml.__name__, hasattr(yaml, 'safe_load'))")
    paths = os.pathsep.join([str(tmp_path / "ours"), str(Path(__file__).parents[2])])
    done = subprocess.run(
        module_command("asks"), cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.stdout == "yaml True\n", done.stderr


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a"):
        with pytest.raises(ValueError, match="a is in use by another process"), locked_folder(tmp_path / "a"):
            pass
        with locked_folder(tmp_path / "b"):
            (tmp_path / "b").rmdir()
    with locked_folder(tmp_path / "a"), locked_folder(tmp_path / "b"):
        assert (tmp_path / "b").is_dir()
