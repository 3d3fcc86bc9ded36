from dataclasses import replace
from pathlib import Path

import pytest

from training import demo
from training.data.index.load import DataConfig
from training.evaluate.metrics import Metrics

SCORE = Metrics(split="synth_val", num_samples=4, nds=0.25, mean_ap=0.15, tp_errors={}, class_ap={}, class_tp_errors={})


@pytest.mark.parametrize("model", ["teacher", "student", "bevdistill"])
def test_each_model_goes_on_from_its_own_weights(model: str, tmp_path: Path) -> None:
    config = demo._training(model, demo.DemoConfig(output=tmp_path), DataConfig(root=tmp_path / "world"))
    assert Path(config.run.initial_weights).is_file()
    assert not config.inherits_decoder


def test_the_students_differ_in_their_teacher_and_weights_alone(tmp_path: Path) -> None:
    settings, data = demo.DemoConfig(output=tmp_path), DataConfig(root=tmp_path / "world")
    plain, distilled = (demo._training(model, settings, data) for model in ("student", "bevdistill"))
    own = {"initial_weights": plain.run.initial_weights, "output": plain.run.output}
    same = replace(distilled, distill=plain.distill, teacher_checkpoint="", run=replace(distilled.run, **own))
    assert same == plain
    assert distilled.distill.method == "bevdistill_dense"


def test_the_table_ends_with_the_gain() -> None:
    scores = {"teacher": SCORE, "student": SCORE, "bevdistill": replace(SCORE, nds=0.275, mean_ap=0.14)}
    lines = demo._score_table(scores).splitlines()
    assert lines[-2].split() == ["student", "+", "BEVDistill", "0.275", "0.140"]
    assert lines[-1].split() == ["gain", "of", "distillation", "+0.025", "-0.010"]
