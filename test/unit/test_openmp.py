import os
import subprocess
import sys

import pytest

ENGINE, TRAINING, NODE = (
    "bevdistill_ros.inference.engine",
    "training.cli.commands",
    "bevdistill_ros.node.rig.ego_motion",
)
BENCH_ENGINE = "training.cli.commands; training.cli.commands.main(['bench', 'engine'])"
BENCH = "training.cli.commands; training.cli.commands.main(['bench'])"


@pytest.mark.parametrize(
    ("module", "given", "expected"),
    [
        (ENGINE, {}, "PASSIVE 3000"),
        (TRAINING, {}, "PASSIVE 3000"),
        (TRAINING, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE 3000"),
        (BENCH, {}, "PASSIVE 3000"),
        (BENCH_ENGINE, {}, "PASSIVE 0"),
        (BENCH_ENGINE, {"GOMP_SPINCOUNT": "500"}, "PASSIVE 500"),
        (NODE, {}, "PASSIVE 0"),
        (NODE, {"GOMP_SPINCOUNT": "3000"}, "PASSIVE 0"),  # from a process of ours that started the node
        (NODE, {"GOMP_SPINCOUNT": "500"}, "PASSIVE 500"),
    ],
)
def test_threads_spin_for_a_short_time_and_in_the_node_and_its_benchmarks_not_at_all(
    module: str, given: dict[str, str], expected: str
) -> None:
    """Before torch is loaded, which reads the variables once."""
    code = (
        "import importlib.abc, os, sys\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))\n"
        "            sys.stdout.flush(); os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}\n"
        "import torch\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **given}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == expected
