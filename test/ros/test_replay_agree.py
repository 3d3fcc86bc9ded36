"""Offline replay, live replay and direct evaluation of the same frames give the same score."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.cli.settings import settings_from
from training.data.index.load import DataConfig
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import ExportConfig, run_export
from training.replay.config import ReplayConfig
from training.replay.run import run_replay
from training.run.config import TrainConfig
from training.run.fit import fit
from training.synth.config import SynthConfig
from training.synth.writer import write_world

pytestmark = [pytest.mark.ros, pytest.mark.slow]

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("synth") / "world"
    config = SynthConfig(
        root=root, seed=1000, num_train_scenes=1, num_tune_scenes=0, num_val_scenes=2, frames_per_scene=5, num_workers=1
    )
    write_world(config, progress=False)
    splits = {"train_split": "synth_train", "val_split": "synth_val"}
    return DataConfig(root=root, version=config.version, num_sweeps=0, **splits)


@pytest.fixture(scope="module")
def bundle(data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped student, which finds something in a world that it has not seen."""
    folder = tmp_path_factory.mktemp("student")
    settings = {
        "config": CONFIG / "train" / "student_tiny.yaml",
        "data.root": data.root,
        "data.num_sweeps": 0,
        "optim.steps": 1,
        "optim.learning_rate": 1e-12,
        "optim.warmup_steps": 1,
        "optim.ema_decay": 0.0,
        "run.output": folder / "run",
        "run.num_workers": 0,
        "run.progress": "false",
        "run.initial_weights": CONFIG / "weights" / "student.safetensors",
    }
    checkpoint = fit(settings_from(TrainConfig, [f"--{name}={value}" for name, value in settings.items()]))
    run_export(ExportConfig(checkpoint=str(checkpoint), output=str(folder / "bundle"), engines="none"))
    return folder / "bundle"


def test_all_three_agree(bundle: Path, data: DataConfig, tmp_path: Path) -> None:
    direct = evaluate(
        EvaluateConfig(source=str(bundle), data=data, output=str(tmp_path / "direct"), num_workers=0, progress=False)
    )
    config = ReplayConfig(
        bundle=bundle,
        output=tmp_path / "live",
        root=data.root,
        version=data.version,
        split=data.val_split,
        pace="step",
        rate=0.5,
        # A busy machine delivers late, which is not what is compared here.
        parameters={"engine": "torch", "sync.max_age_ms": 5000.0, "ego_motion.max_wait_ms": 1000.0},
        answer_timeout_s=60.0,
        progress=False,
    )
    live = run_replay(config)
    offline = run_replay(replace(config, output=tmp_path / "offline", mode="offline", pace="realtime", rate=1.0))
    assert live.samples_unanswered == 0, live.drops
    assert live.metrics is not None
    assert offline.metrics is not None
    assert direct.nds > 0.1
    print(f"NDS: direct {direct.nds:.6f}, offline {offline.metrics.nds:.6f}, live {live.metrics.nds:.6f}")  # noqa: T201
    assert offline.metrics.nds == pytest.approx(direct.nds, abs=0.001)
    assert live.metrics.nds == pytest.approx(direct.nds, abs=0.005)
    for output in ("live", "offline"):
        report = json.loads((tmp_path / output / "report.json").read_text())
        assert report["whole"]["nds"] > 0.1
        assert len(report["timing"]["timeline"]) == 10
        assert report["latency_aware"]["published"] == "status"
