"""From a student's checkpoint to the bundle that the node runs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.inference.bundle import save_bundle
from training.checkpoint import read_checkpoint, read_config
from training.data.nuscenes import load_index
from training.models import data_config_from, load_student


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `bevdistill export` writes."""

    checkpoint: str  # of a student
    output: str  # folder of the bundle
    name: str = "bevformer"
    version: str = "1"


def run_export(config: ExportConfig) -> str:
    """Write the bundle of a checkpoint; returns the closing text."""
    content = read_checkpoint(config.checkpoint)
    settings = read_config(content)
    student_config, student = load_student(config.checkpoint)
    rig = load_index(data_config_from(settings["data"])).training_rig(student_config.cameras)
    path = save_bundle(
        Path(config.output),
        student,
        name=config.name,
        version=config.version,
        rig=rig,
        provenance={
            "distillation": settings["distill"]["method"],
            "data": f"{settings['data']['version']}/{settings['data']['train_split']}",
            "steps": str(settings["optim"]["steps"]),
            "revision": _revision(),
        },
    )
    return f"bundle: {path}"


def _revision() -> str:
    """Commit of the source tree; empty where it isn't a git checkout."""
    source = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=source, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
