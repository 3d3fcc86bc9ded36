"""The detector node as a child process, with its log."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tiny_model import CAMERAS, SIZE, tiny_rig

EXIT_TIMEOUT_S = 60.0


class NodeProcess:
    """The node as a child process.

    Args:
        folder: For its parameters and log.
        name: Its full name.
        **parameters: Parameters that differ from those of a node for tests.
    """

    def __init__(self, folder: Path, name: str, **parameters: Any) -> None:
        self.rig_file = folder / "rig.yaml"
        self.rig_file.write_text(yaml.safe_dump(tiny_rig(SIZE).to_dict()))
        content = {
            "cameras": list(CAMERAS),
            "rig_file": str(self.rig_file),
            "device": "cpu",
            "num_threads": 1,
            "score_threshold": 0.0,
            # The machine may be slow; what must not be is waited for.
            "sync": {"reference_camera": "FRONT", "max_spread_ms": 50.0, "max_age_ms": 2000.0},
            "ego_motion": {"max_wait_ms": 1000.0},
            "diagnostics": {"period_s": 0.2, "window_s": 2.0},
            **parameters,
        }
        parameter_file = folder / "node.param.yaml"
        parameter_file.write_text(yaml.safe_dump({name: {"ros__parameters": content}}))
        self.log_path = folder / "node.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bevdistill_ros.node.detector_node"),
                    *("--ros-args", "--params-file", str(parameter_file), "-r", f"__ns:={name.rpartition('/')[0]}"),
                    *("-r", f"{name}/input/odometry:=/odom"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it printed."""
        return self.log_path.read_text()

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def interrupt(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end."""
        self._process.send_signal(with_signal)

    def wait(self) -> int:
        """Its exit code; it is killed where it does not end in time."""
        try:
            return self._process.wait(EXIT_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()
