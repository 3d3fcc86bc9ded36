"""Students that learn from a detector of mmdet3d, and its own score, on the tiny database."""

import json
import math
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.core.boxes import decode_boxes
from training.benchmark.distillation.config import DistillationConfig
from training.benchmark.distillation.run import run_distillation
from training.cli.commands import main
from training.data.sample import collate
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module, fit
from training.teacher.mmdet3d import build_mmdet3d_teacher, load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.weights.checkpoint import config_text, read_checkpoint

pytestmark = pytest.mark.mmdet3d

MakeRun = Callable[..., TrainConfig]


def changes(detector: Any, method: str, **more: Any) -> dict[str, Any]:
    return {
        "distill.method": method,
        "teacher_checkpoint": detector.checkpoint,
        "mmdet3d.config": detector.config,
        "mmdet3d.num_queries": 10,
        "data.num_sweeps": 9,
        **more,
    }


@pytest.mark.parametrize("method", ["bevdistill", "set2set", "fitnet", "monodistill", "uvtr", "unidistill"])
def test_gradients_reach_the_student_and_never_the_teacher(
    make_run: MakeRun, centerpoint: Any, tmp_path: Path, method: str
) -> None:
    config = make_run(tmp_path / "run", **changes(centerpoint, method))
    module = build_module(config)
    teacher = module._teacher[0]  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}  # type: ignore[union-attr]
    dataset = train_dataset(config)
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for _ in range(3):
        losses, _ = module.objective(collate([dataset[0], dataset[1]]))
        assert all(value.isfinite() for value in losses.values()), losses
        optimizer.zero_grad()
        distilled = {name: value for name, value in losses.items() if name not in ("classification", "box")}
        assert distilled
        module.total(distilled).backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in module.model.parameters())
        optimizer.step()
    after = teacher.state_dict()  # type: ignore[union-attr]
    assert any("running_var" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in teacher.parameters())  # type: ignore[union-attr]


def test_distillation_run(make_run: MakeRun, centerpoint: Any, tmp_path: Path) -> None:
    more = {"optim.steps": 4, "augment.bev": {}}
    checkpoint = fit(make_run(tmp_path / "run", **changes(centerpoint, "bevdistill", **more)))
    lines = [json.loads(line) for line in (checkpoint.parent / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"dense", "sparse_mi", "total"} <= lines[0].keys()
    assert all(math.isfinite(value) for line in lines for value in line.values())
    names = read_checkpoint(checkpoint)["state_dict"]
    assert not any("detector" in name for name in names)


def test_methods_of_one_detector_side_by_side(make_run: MakeRun, centerpoint: Any, tmp_path: Path) -> None:
    student = tmp_path / "student.yaml"
    student.write_text(config_text(make_run(tmp_path, **changes(centerpoint, "none"))))
    closing = run_distillation(
        DistillationConfig(
            student=student,
            teacher_checkpoint=centerpoint.checkpoint,
            arms={"none": {}, "fitnet": {"distill.method": "fitnet"}},
            seeds=(0,),
            split="tiny_val",
            output=tmp_path / "runs",
            results=tmp_path / "results",
            isolate=False,
        )
    )
    assert [line.split()[0] for line in closing.splitlines()[2:5]] == ["LiDAR", "none", "fitnet"]
    assert (tmp_path / "runs/pictures/features.png").stat().st_size > 5000


def test_a_detector_is_trained_on_our_data(
    centerpoint: Any, train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = train_arguments(tmp_path / "run", role="teacher", **{"data.num_sweeps": 9, "optim.steps": 3})
    script = Path(__file__).parents[3] / "scripts/train_mmdet3d.py"
    command = [sys.executable, "-W", "ignore", script, centerpoint.config, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "loss=nan" not in done.stderr
    teacher = load_mmdet3d_teacher(Mmdet3dConfig(config=centerpoint.config), tmp_path / "run/last.pth")
    before = load_mmdet3d_teacher(Mmdet3dConfig(config=centerpoint.config), centerpoint.checkpoint)
    assert teacher.facts.class_names == before.facts.class_names
    assert all(torch.isfinite(value).all() for value in teacher.state_dict().values())


def test_a_detector_that_says_what_it_is_taught_says_the_truth(
    make_run: MakeRun, centerpoint: Any, tmp_path: Path
) -> None:
    dataset = train_dataset(make_run(tmp_path / "run", role="teacher", **{"data.num_sweeps": 9}))
    batch = collate([dataset[0], dataset[1]])
    teacher = build_mmdet3d_teacher(Mmdet3dConfig(config=centerpoint.config))
    taught = runpy.run_path(str(Path(__file__).parents[3] / "scripts/train_mmdet3d.py"))["truth_for"](teacher, batch)
    for instances in taught:
        instances.scores_3d = torch.ones(len(instances))
    native = teacher.facts.voxels.with_cells(64, 64)
    bev = torch.zeros(2, teacher.channels, 64, 64)
    said = teacher._predictions(taught, bev, native, batch.ego_from_lidar)
    for item, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
        assert len(boxes)
        found = decode_boxes(said.codes[0, item, : len(boxes)])
        torch.testing.assert_close(found, boxes.nan_to_num(), rtol=0, atol=1e-3)
        assert torch.equal(said.logits[0, item, : len(boxes)].argmax(dim=-1), labels)


def test_sweeps_must_be_those_of_the_detector(make_run: MakeRun, centerpoint: Any, tmp_path: Path) -> None:
    config = make_run(tmp_path / "run", **changes(centerpoint, "fitnet", **{"data.num_sweeps": 1}))
    with pytest.raises(ValueError, match=r"was trained with 9 sweeps, but data.num_sweeps is 1; set it to 9"):
        build_module(config)


@pytest.mark.parametrize("command", ["evaluate", "show"])
def test_commands_take_a_detector_of_mmdet3d(
    tiny_world: Any, centerpoint: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = [
        *(f"--source={centerpoint.checkpoint}", f"--mmdet3d.config={centerpoint.config}"),
        *(f"--data.root={tiny_world.root}", f"--data.version={tiny_world.version}", "--split=tiny_val"),
        *(f"--output={tmp_path / 'out'}", "--device=cpu"),
    ]
    more = ["--num_workers=0", "--batch_size=2", "--progress=false"] if command == "evaluate" else ["--frames=1"]
    assert main([command, *arguments, *more]) == 0
    assert ("NDS" if command == "evaluate" else "picture:") in capsys.readouterr().out
    if command == "evaluate":
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["meta"]["use_lidar"]
        assert all(box["detection_score"] >= 0.01 for boxes in results["results"].values() for box in boxes)


def test_without_a_configuration_a_foreign_checkpoint_is_refused(
    centerpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"--source={centerpoint.checkpoint}"]) == 1
    assert "damaged or no checkpoint" in capsys.readouterr().err
