"""The import table of the design holds in the source tree and in what colcon installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(python_path: list[Path], working_directory: Path) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    return subprocess.run(
        [sys.executable, "-P", "-c", command, "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--no-logo"],
        # A folder without our packages: import-linter puts its working directory first on the path.
        cwd=working_directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, python_path))},
        capture_output=True,
        text=True,
    )


def test_contracts_hold_in_source_tree(tmp_path: Path) -> None:
    result = lint_imports([ROOT], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.ros
def test_contracts_hold_in_install_tree(tmp_path: Path) -> None:
    installed = next((ROOT / ".ros" / "install").glob("bevdistill_ros/**/*-packages/bevdistill_ros"), None)
    if installed is None:
        pytest.skip("needs the package installed by colcon: make setup")
    result = lint_imports([installed.parent, ROOT], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_contracts_catch_an_upward_import(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bevdistill_ros", tmp_path / "bevdistill_ros", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bevdistill_ros" / "core" / "upward.py").write_text("import rclpy\nimport bevdistill_ros.node\n")
    result = lint_imports([tmp_path, ROOT], tmp_path)
    assert result.returncode == 1
    for name in ("bevdistill_ros.node", "rclpy"):
        assert f"bevdistill_ros.core is not allowed to import {name}:" in result.stdout, result.stdout + result.stderr
