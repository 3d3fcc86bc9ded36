from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.benchmark.speed import SpeedConfig, measure
from training.data.index.load import DataConfig
from training.run.config import TrainConfig


def test_table_has_training_and_inference(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tiny_bundle: Path, tiny_world: Any, tmp_path: Path
) -> None:
    data = DataConfig(
        root=tiny_world.root,
        version=tiny_world.version,
        train_split="tiny_train",
        val_split="tiny_val",
        num_sweeps=1,
    )
    config = SpeedConfig(bundle=tiny_bundle, data=data, generation_frames=0, steps=1, frames=2, warm_up=1, device="cpu")
    distilled = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_teacher)}
    table = measure(config, [("distilled", make_run(tmp_path, **distilled))])
    lines = table.splitlines()
    assert lines[0].startswith("speed on this machine (cpu, ")
    assert lines[1].startswith("training distilled, batch 2")
    assert lines[1].endswith("samples/s")
    assert float(lines[1].split()[-2]) > 0
    assert lines[2].startswith("inference, engine used")
    stages = {line.split("(p50")[0].strip(): float(line.split()[-4]) for line in lines[3:]}
    assert list(stages) == [f"inference, {name}" for name in ("read and decode", "scale and crop", "engine", "all")]
    assert stages["inference, all"] >= stages["inference, engine"] > 0


def test_missing_data_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no data set at"):
        measure(SpeedConfig(data=DataConfig(root=tmp_path / "none")))
