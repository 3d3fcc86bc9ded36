import copy
import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from training.data.index.load import load_index
from training.data.sample import collate
from training.distill.build import METHODS
from training.run.callbacks import LOSSES, ExponentialAverage, LossLog
from training.run.config import TrainConfig
from training.run.data import TrainData, train_dataset
from training.run.fit import build_module, fit
from training.run.module import StudentTraining, TeacherTraining
from training.run.optimizer import build_schedule, parameter_groups
from training.run.resume import _FIRST_DEFAULTS, differences, fingerprint, first_step
from training.teacher.load import load_teacher
from training.weights.checkpoint import CONFIG_KEY, config_text, read_checkpoint, read_weights

MakeRun = Callable[..., TrainConfig]


def trainer_on(device: str) -> SimpleNamespace:
    """What the data ask of a trainer."""
    return SimpleNamespace(global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.mark.parametrize(("device", "pins"), [("cpu", False), ("cuda", True)])
def test_batches_for_a_gpu_are_pinned(device: str, pins: bool, make_run: MakeRun, tmp_path: Path) -> None:
    data = TrainData(make_run(tmp_path / "run"), 0)
    data.trainer = trainer_on(device)  # type: ignore[assignment]
    assert data.train_dataloader().pin_memory is pins


def losses_of(checkpoint: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (checkpoint.parent / "losses.jsonl").read_text().splitlines()]


def assert_same(first: Path, second: Path) -> None:
    """Weights, averaged or not, optimiser and losses of two runs are the same to the last bit."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    for part in ("state_dict", "current_model_state"):
        assert (part in one) == (part in two)
        for name, value in one.get(part, {}).items():
            assert torch.equal(value, two[part][name]), f"{part} {name}"
    states = zip(
        one["optimizer_states"][0]["state"].values(), two["optimizer_states"][0]["state"].values(), strict=True
    )
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in states)
    assert losses_of(first) == losses_of(second)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """Let the runs of this test do something at the end of a step."""
    original = LossLog.on_train_batch_end

    def patched(self: LossLog, trainer: pl.Trainer, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == step:
            act()

    monkeypatch.setattr(LossLog, "on_train_batch_end", patched)


def raise_oserror() -> None:
    raise OSError("power cut")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_run_writes_checkpoint_configuration_and_losses(make_run: MakeRun, tmp_path: Path, role: str) -> None:
    config = make_run(tmp_path / "run", role=role, **{"optim.steps": 4, "run.log_every": 2, "criterion.heatmap": 1.0})
    checkpoint = fit(config)
    assert {path.name for path in checkpoint.parent.iterdir()} == {"last.ckpt", "losses.jsonl", "config.json"}
    lines = losses_of(checkpoint)
    assert [line["step"] for line in lines] == [1, 2, 4]
    names = {"classification", "box", "heatmap"}
    assert lines[1].keys() == {"step", "learning_rate", "total"} | names
    assert lines[0].keys() - lines[1].keys() == {
        f"{kind}/{name}" for kind in ("gradient", "weighted") for name in names
    }
    # Unweighted terms; the weights are applied in the total.
    weighted = 2.0 * lines[0]["classification"] + 0.25 * lines[0]["box"] + lines[0]["heatmap"]
    assert lines[0]["total"] == pytest.approx(weighted, rel=1e-5)
    assert lines[0]["weighted/box"] == pytest.approx(0.25 * lines[0]["box"], rel=1e-5)
    assert lines[0]["learning_rate"] == pytest.approx(0.5e-3)  # the first of two warm-up steps
    assert json.loads((checkpoint.parent / "config.json").read_text())["role"] == role
    assert read_checkpoint(checkpoint)["global_step"] == 4


def test_training_lowers_the_loss(make_run: MakeRun, tmp_path: Path) -> None:
    lines = losses_of(
        fit(make_run(tmp_path / "run", role="teacher", **{"optim.steps": 30, "optim.learning_rate": 5e-3}))
    )
    assert lines[-1]["total"] < 0.8 * lines[0]["total"]


@pytest.mark.parametrize("kind", ["teacher", "student", "distilled student"])
def test_resumed_run_equals_an_uninterrupted_one(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With averaged weights, dropout, augmentation, the distiller's batch statistics and a line cut off in the log."""
    distilled = {"distill.method": "bevdistill", "teacher_checkpoint": str(tiny_teacher)}
    changes: dict[str, Any] = {
        **(distilled if kind == "distilled student" else {}),
        "role": kind.split()[-1],
        "optim.steps": 6,
        "optim.ema_decay": 0.5,
        "augment.bev": {},
        "augment.photometric": {},
        "run.checkpoint_every": 2,
    }
    whole = fit(make_run(tmp_path / "whole", **changes))
    with monkeypatch.context() as context:
        interrupt(context, 5, raise_oserror)
        with pytest.raises(OSError, match="power cut"):
            fit(make_run(tmp_path / "cut", **changes))
    cut = tmp_path / "cut" / "last.ckpt"
    assert read_checkpoint(cut)["global_step"] == 4
    with (tmp_path / "cut" / "losses.jsonl").open("a") as file:
        file.write('{"step": 6, "lea')
    assert fit(make_run(tmp_path / "cut", **changes, **{"run.resume": True})) == cut
    assert_same(whole, cut)
    content = read_checkpoint(cut)
    averaged, latest = content["state_dict"], content["current_model_state"]
    assert any(not torch.equal(value, latest[name]) for name, value in averaged.items())


def test_run_that_is_told_to_end_saves_and_goes_on(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"role": "teacher", "optim.steps": 5, "optim.ema_decay": 0.5}
    whole = fit(make_run(tmp_path / "whole", **changes))
    with monkeypatch.context() as context:
        interrupt(context, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            fit(make_run(tmp_path / "cut", **changes))
    cut = tmp_path / "cut" / "last.ckpt"
    assert read_checkpoint(cut)["global_step"] == 3
    fit(make_run(tmp_path / "cut", **changes, **{"run.resume": True}))
    assert_same(whole, cut)


def test_accumulated_steps_resume_bit_exactly(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout and averaged weights; asked to end in the middle of a step, the run ends with that step."""
    changes: dict[str, Any] = {"optim.steps": 4, "optim.ema_decay": 0.5, "optim.accumulate": 3, "optim.batch_size": 1}
    whole = fit(make_run(tmp_path / "whole", **changes))
    assert [line["step"] for line in losses_of(whole)] == [1, 2, 3, 4]
    original = StudentTraining.training_step

    def asked_to_end(self: StudentTraining, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 4:  # the second of step 2
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as context:
        context.setattr(StudentTraining, "training_step", asked_to_end)
        with pytest.raises(KeyboardInterrupt, match=r"--run\.resume true"):
            fit(make_run(tmp_path / "cut", **changes))
    cut = tmp_path / "cut" / "last.ckpt"
    assert read_checkpoint(cut)["global_step"] == 2
    fit(make_run(tmp_path / "cut", **changes, **{"run.resume": True}))
    assert_same(whole, cut)


def test_accumulated_batches_are_one_step_of_their_samples(make_run: MakeRun, tmp_path: Path) -> None:
    """Without dropout and batch statistics, and with as many boxes in each sample."""
    changes = {"role": "teacher", "optim.steps": 2, "run.balance_every": 0, "teacher.dropout": 0.0}
    taken: dict[int, list[Any]] = {}
    for accumulate in (1, 2):
        data = TrainData(
            make_run(tmp_path, **changes, **{"optim.accumulate": accumulate, "optim.batch_size": 2 // accumulate}), 0
        )
        data.trainer = trainer_on("cpu")  # type: ignore[assignment]
        batches = list(data.train_dataloader().batch_sampler)  # type: ignore[arg-type]
        taken[accumulate] = [draw for batch in batches for draw in batch]
        assert len(batches) == 2 * accumulate
    assert taken[1] == taken[2]
    config = make_run(tmp_path, **changes)
    dataset = train_dataset(config)
    samples = [dataset[0], dataset[1]]
    module = build_module(config).eval()
    gradients = []
    for parts in ([samples], [samples[:1], samples[1:]]):
        module.zero_grad()
        for part in parts:
            (module.total(module.losses(collate(part))) / len(parts)).backward()
        gradients.append(
            {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
        )
    assert all(torch.allclose(value, gradients[1][name], atol=1e-5) for name, value in gradients[0].items())


def test_the_average_lies_where_the_model_is_and_copies_no_teacher(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    distilled = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_teacher)}
    module = build_module(make_run(tmp_path, **distilled)).to("meta")
    average = ExponentialAverage(0.9)
    average.on_train_start(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert {value.device.type for value in average._mean.values()} == {"meta"}
    assert average._mean.keys() == module.state_dict().keys()


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"optim.batch_size": 4}, {"optim.batch_size": 2, "run.devices": 2}, None),
        ({"optim.batch_size": 4}, {"optim.batch_size": 1, "optim.accumulate": 4}, None),
        (
            {"optim.batch_size": 4},
            {"run.devices": 2, "optim.batch_size": 4},
            r"with run.devices 1, not 2 \(4 samples per step, not 8\); .*run.initial_weights",
        ),
        ({"optim.steps": 2}, {"optim.steps": 9}, None),
        ({"optim.steps": 6, "optim.schedule": "one_cycle"}, {"optim.steps": 9}, "with optim.steps 6, not 9"),
        ({"optim.steps": 2}, {"optim.steps": 1}, "has 2 steps already"),
    ],
)
def test_a_run_is_resumed_where_its_samples_are_the_same(
    make_run: MakeRun, tmp_path: Path, before: dict[str, Any], now: dict[str, Any], words: str | None
) -> None:
    saved = make_run(tmp_path / "run", role="teacher", **before)
    parts = {name: {} for name in ("optimizer_states", "lr_schedulers", "loops", "callbacks", "state_dict")}
    (tmp_path / "run").mkdir()
    torch.save({"global_step": 2, CONFIG_KEY: config_text(saved), **parts}, tmp_path / "run" / "last.ckpt")
    config = make_run(tmp_path / "run", role="teacher", **{**before, **now, "run.resume": True})
    if words is None:
        assert first_step(config, tmp_path / "run") == 2
    else:
        with pytest.raises(ValueError, match=words):
            first_step(config, tmp_path / "run")


def test_memory_of_the_averaged_weights_grows_with_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    """The first average is the first step's weights; the second keeps 2/11 of it, the third 3/12."""
    run = {"role": "teacher", "optim.ema_decay": 0.9, "run.checkpoint_every": 1}
    latest, averaged = [], []
    for steps in (1, 2, 3):
        # One schedule for all three: constant after no warm-up.
        changes = {**run, "optim.steps": steps, "optim.schedule": "constant", "optim.warmup_steps": 0}
        content = read_checkpoint(fit(make_run(tmp_path / str(steps), **changes)))
        latest.append(content["current_model_state"]["model.decoder.position.0.weight"])
        averaged.append(content["state_dict"]["model.decoder.position.0.weight"])
    expected = latest[0]
    assert torch.equal(averaged[0], expected)
    for count in (1, 2):
        kept = (1 + count) / (10 + count)
        expected = kept * expected + (1 - kept) * latest[count]
        assert torch.allclose(averaged[count], expected, atol=1e-7)
    assert not torch.equal(latest[0], latest[2])


def test_finished_run_is_not_trained_again(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = fit(make_run(tmp_path / "run", role="teacher"))
    content = checkpoint.read_bytes()
    assert fit(make_run(tmp_path / "run", role="teacher", **{"run.resume": True})).read_bytes() == content


def test_resuming_where_nothing_is_starts_anew(make_run: MakeRun, tmp_path: Path) -> None:
    checkpoint = fit(make_run(tmp_path / "run", role="teacher", **{"run.resume": True}))
    assert read_checkpoint(checkpoint)["global_step"] == 2


def test_run_is_not_overwritten(make_run: MakeRun, tiny_teacher: Path) -> None:
    before = tiny_teacher.read_bytes()
    with pytest.raises(ValueError, match=r"already holds a run; set run\.resume"):
        fit(make_run(tiny_teacher.parent, role="teacher"))
    assert tiny_teacher.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("optim.seed", 7, "optim.seed"),
        ("teacher.num_queries", 13, "teacher.num_queries"),
        ("augment.min_lidar_points", 2, "augment.min_lidar_points"),
        ("data.train_split", "tiny_val", "data.train_split"),
        ("role", "student", "role"),
    ],
)
def test_run_is_not_resumed_with_other_settings(
    make_run: MakeRun, tiny_teacher: Path, key: str, value: Any, named: str
) -> None:
    changes = {"role": "teacher", "run.resume": True, key: value}
    with pytest.raises(ValueError, match=f"was trained with {named} .*, not .*set run.initial_weights to"):
        fit(make_run(tiny_teacher.parent, **changes))


def test_a_setting_younger_than_the_run_counts_as_at_its_default() -> None:
    now = json.loads(config_text(TrainConfig()))
    before = json.loads(config_text(TrainConfig()))
    before["distill"]["uvtr"] = {"gone": 3}
    before["data"]["root"] = before["run"]["output"] = "moved"
    before["run"]["threads"] = 7
    assert differences(before, now) == []
    now["distill"]["method"] = "uvtr"
    now["distill"]["uvtr"]["weight"] = 2.0
    now["augment"]["paste"] = {"objects": 3}
    now["run"] |= {"initial_weights": "other.ckpt", "precision": "16-mixed", "devices": 8}
    assert differences(before, now) == [
        *("augment.paste", "distill.method", "distill.uvtr.weight"),
        *("run.devices", "run.initial_weights", "run.precision"),
    ]


def test_settings_of_a_teacher_count_where_a_run_has_one(make_run: MakeRun, tmp_path: Path) -> None:
    def of(**changes: object) -> str:
        return fingerprint(make_run(tmp_path, **{"teacher_checkpoint": "some.ckpt", **changes}))

    other = {"mmdet3d.num_queries": 7}
    assert of() == of(**other)
    assert of() != of(**{"optim.steps": 9})
    assert of(**{"distill.method": "fitnet"}) != of(**{"distill.method": "fitnet"}, **other)
    assert of(**{"distill.inherit": "decoder"}) != of(**{"distill.inherit": "decoder"}, **other)
    assert of() == of(**{"distill.share": 3.0})


def test_runs_before_and_after_a_change_of_a_default_are_told_apart(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(**changes: object) -> str:
        taught = {"teacher_checkpoint": "some.ckpt", "distill.method": "fitnet"}
        return fingerprint(make_run(tmp_path, **taught, **changes))

    sixteen = of(**{"distill.balance_every": 16})
    usual = of()
    monkeypatch.setitem(_FIRST_DEFAULTS, "distill.balance_every", 16)
    assert of(**{"distill.balance_every": 16}) == usual
    assert of() not in {usual, sixteen}


def test_how_terms_are_balanced_counts_where_a_weight_is_auto(make_run: MakeRun, tmp_path: Path) -> None:
    def of(weight: object, **changes: object) -> str:
        settings = {"distill.method": "fitnet", "distill.fitnet.weight": weight, "teacher_checkpoint": "some.ckpt"}
        return fingerprint(make_run(tmp_path, **settings, **changes))

    for changes in ({"distill.share": 3.0}, {"distill.balance_every": 7}, {"distill.fitnet.emphasis": 0.5}):
        assert of("auto") != of("auto", **changes)
        assert of(0.1) == of(0.1, **changes)


def test_settings_that_do_nothing_in_a_run_do_not_count(make_run: MakeRun, tmp_path: Path) -> None:
    def of(method: str, **changes: object) -> str:
        return fingerprint(make_run(tmp_path, **{"teacher_checkpoint": "a", "distill.method": method, **changes}))

    dense = {"distill.bevdistill_dense.sigma": 3.0}
    assert of("fitnet") == of("fitnet", **dense)
    assert of("bevdistill") != of("bevdistill", **dense)
    assert of("none") == of("none", **dense)
    assert of("bevdistill") == of("bevdistill", **{"distill.inherit": "decoder"})  # as auto means there
    assert of("fitnet") == of("fitnet", **{"distill.inherit": "none"})
    assert of("fitnet") != of("fitnet", **{"distill.inherit": "decoder"})


@pytest.mark.parametrize(
    ("changes", "used"),
    [({"role": "teacher"}, []), ({"distill.method": "none"}, []), ({"distill.method": "fitnet"}, ["distill.share"])],
)
def test_a_run_that_uses_no_changed_default_goes_on(
    changes: dict[str, str], used: list[str], make_run: MakeRun, tmp_path: Path
) -> None:
    now = json.loads(config_text(make_run(tmp_path, **{"teacher_checkpoint": "some.ckpt"}, **changes)))
    before = copy.deepcopy(now)
    for name, value in _FIRST_DEFAULTS.items():
        *parents, last = name.split(".")
        reduce(getitem, parents, before)[last] = value
    assert differences(before, now) == used
    now["distill"]["method"] = before["distill"]["method"] = "bevdistill"
    now["role"] = before["role"] = "student"
    assert differences(before, now) == sorted(_FIRST_DEFAULTS)
    del before["distill"]["bevdistill_dense"]  # from before there were such settings
    assert differences(before, now) == sorted(_FIRST_DEFAULTS)
    assert differences({**before, "distill": 3}, now) == ["distill"]


def test_data_may_move_before_a_run_is_resumed(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    root.symlink_to(load_index(make_run(tmp_path).data).root)
    fit(make_run(tiny_teacher.parent, role="teacher", **{"run.resume": True, "data.root": str(root)}))


def test_initial_weights_are_taken_over(make_run: MakeRun, tiny_student: Path, tmp_path: Path) -> None:
    module = build_module(make_run(tmp_path, **{"run.initial_weights": str(tiny_student), "optim.seed": 5}))
    weights = read_weights(tiny_student)
    assert all(torch.equal(value, weights[name]) for name, value in module.model.state_dict().items())


def test_initial_weights_of_another_architecture_are_refused(
    make_run: MakeRun, tiny_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"is of another architecture: .* have another shape"):
        fit(make_run(tmp_path / "run", **{"run.initial_weights": str(tiny_student), "student.num_queries": 13}))
    assert not (tmp_path / "run").exists()


def test_teacher_does_not_move_while_a_student_learns_from_it(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Parameters and buffers, over distilled steps with an optimiser that would move whatever it is given."""
    changes = {"distill.method": "bevdistill", "teacher_checkpoint": str(tiny_teacher)}
    config = make_run(tmp_path / "run", **changes)
    module = build_module(config)
    assert isinstance(module, StudentTraining)
    teacher = module._teacher[0]
    assert teacher is not None
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    dataset = train_dataset(config)
    batch = collate([dataset[0], dataset[1]])
    optimizer = torch.optim.SGD([*module.parameters(), *teacher.parameters()], lr=0.1, weight_decay=0.1)
    module.train()
    for _ in range(2):
        optimizer.zero_grad()
        module.objective(batch)[1].backward()
        optimizer.step()
    assert before.keys() == teacher.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(name.startswith("_teacher") or "teacher.module" in name for name in module.state_dict())


def test_distillation_in_one_of_several_steps(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    changes = {"distill.method": "fitnet", "distill.every": 3, "distill.fitnet.weight": 0.1, "optim.steps": 6}
    run = make_run(tmp_path / "run", **changes, **{"teacher_checkpoint": str(tiny_teacher), "run.log_every": 1})
    lines = [json.loads(line) for line in (fit(run).parent / LOSSES).read_text().splitlines()]
    assert [line["step"] for line in lines if "fitnet" in line] == [3, 6]
    assert all("total" in line and "box" in line for line in lines)


def test_distilled_student_holds_no_more_than_the_plain_one(
    make_run: MakeRun, tiny_teacher: Path, tiny_student: Path, tmp_path: Path
) -> None:
    changes = {"distill.method": "bevdistill", "teacher_checkpoint": str(tiny_teacher), "criterion.heatmap": 1.0}
    checkpoint = fit(make_run(tmp_path / "run", **changes))
    distilled, plain = read_weights(checkpoint), read_weights(tiny_student)
    assert {name: value.shape for name, value in distilled.items()} == {n: v.shape for n, v in plain.items()}
    assert losses_of(checkpoint)[0].keys() >= {"dense", "sparse_mi", "heatmap"}


def test_teacher_of_another_number_of_sweeps_is_refused(make_run: MakeRun, tiny_teacher: Path, tmp_path: Path) -> None:
    changes = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_teacher), "data.num_sweeps": 0}
    with pytest.raises(ValueError, match=r"was trained with 1 sweeps, but data\.num_sweeps is 0"):
        fit(make_run(tmp_path / "run", **changes))


def test_teacher_on_another_grid_is_refused_before_anything_is_written(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    changes = {
        "distill.method": "fitnet",
        "teacher_checkpoint": str(tiny_teacher),
        "student.grid": {"rows": 4, "cols": 4},
    }
    with pytest.raises(ValueError, match="must share a BEV grid"):
        fit(make_run(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_student_is_no_teacher(make_run: MakeRun, tiny_student: Path, tmp_path: Path) -> None:
    changes = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_student)}
    with pytest.raises(ValueError, match="holds a student, but a teacher is needed"):
        fit(make_run(tmp_path / "run", **changes))


def test_loss_that_is_not_finite_stops_the_run_with_step_and_terms(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StudentTraining.terms

    def terms(self: StudentTraining, batch: Any, step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        losses, bev = original(self, batch)
        return (losses | {"box": losses["box"] * float("nan")} if self.global_step == 1 else losses), bev

    monkeypatch.setattr(StudentTraining, "terms", terms)
    with pytest.raises(FloatingPointError, match=r"loss of step 2 is not finite: classification [\d.]+, box nan"):
        fit(make_run(tmp_path / "run", **{"optim.steps": 3}))
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_diverged_prediction_stops_the_run_with_step_and_last_terms(make_run: MakeRun, tmp_path: Path) -> None:
    """The matcher finds it before there is a loss."""
    changes = {"optim.steps": 30, "optim.learning_rate": 1e30, "optim.warmup_steps": 0}
    with pytest.raises(
        FloatingPointError, match=r"step 2: .* is not finite.*losses of the step before: classification [\d.]+, box"
    ):
        fit(make_run(tmp_path / "run", **changes))


def test_temporal_student_trains_over_clips(make_run: MakeRun, tmp_path: Path) -> None:
    changes = {"student.temporal": True, "data.clip_length": 2}
    lines = losses_of(fit(make_run(tmp_path / "run", **changes)))
    assert len(lines) == 2
    with pytest.raises(ValueError, match=r"set data\.clip_length to 2 or more"):
        make_run(tmp_path / "run", **{"student.temporal": True})


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
def test_every_method_teaches_a_temporal_student(
    make_run: MakeRun, tiny_teacher: Path, tmp_path: Path, method: str
) -> None:
    """The gradient of the method's own terms reaches what the student does with the frame before."""
    changes = {
        "distill.method": method,
        "distill.bevdistill_sparse.quality": False,  # this teacher's boxes have none
        "teacher_checkpoint": str(tiny_teacher),
        "student.temporal": True,
        "data.clip_length": 2,
    }
    config = make_run(tmp_path, **changes)
    dataset = train_dataset(config)
    batch = collate([dataset[1], dataset[2]])
    assert batch.history_present.all()
    module = build_module(config).train()
    losses = module.losses(batch)
    own = [value for name, value in losses.items() if name not in ("classification", "box") and value.requires_grad]
    assert own
    assert all(value.isfinite() for value in own)
    torch.stack(own).sum().backward()
    past = [value for name, value in module.named_parameters() if "past_projection" in name]
    assert past
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in past)


def test_history_moves_neither_statistics_nor_mode(make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run(tmp_path, **{"student.temporal": True, "data.clip_length": 3})
    dataset = train_dataset(config)
    batch = collate([dataset[2], dataset[2]])
    assert len(batch.history) == 2
    with_history, alone = build_module(config).train(), build_module(config).train()
    assert isinstance(with_history, StudentTraining)
    alone.load_state_dict(with_history.state_dict())
    with_history.student_output(batch)
    alone.model(batch.cameras)
    assert all(module.training for module in with_history.modules())
    buffers = dict(alone.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in with_history.named_buffers())


def test_every_parameter_learns_from_a_clip_under_autocast(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a torch whose cache keeps weights that the history cast without gradient: it is emptied in between."""
    config = make_run(tmp_path, **{"student.temporal": True, "data.clip_length": 3})
    dataset = train_dataset(config)
    batch = collate([dataset[2], dataset[2]])
    module = build_module(config).train()
    assert isinstance(module, StudentTraining)
    events: list[str] = []
    encode, clear = module.model.encode, torch.clear_autocast_cache
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (events.append("clear"), clear()))

    def encoded(*given: Any, **named: Any) -> Any:
        events.append("encode")
        return encode(*given, **named)

    monkeypatch.setattr(module.model, "encode", encoded)
    module.model.register_forward_pre_hook(lambda *_: events.append("forward"))
    with torch.autocast("cpu", torch.bfloat16):
        losses = module.losses(batch)
    assert events[: events.index("forward")] == ["encode", "encode", "clear"]
    module.total(losses).backward()
    parameters = dict(module.named_parameters())
    assert [name for name, value in parameters.items() if value.requires_grad and value.grad is None] == []


def test_a_box_of_unknown_velocity_teaches_none(make_run: MakeRun, tmp_path: Path) -> None:
    """The pedestrian of `scene-stand` is seen once: what the model predicts as its velocity costs nothing."""
    config = make_run(tmp_path, role="teacher", **{"data.train_split": "tiny_val"})
    dataset = train_dataset(config)
    batch = collate([dataset[3]])
    module = build_module(config).eval()
    assert isinstance(module, TeacherTraining)
    predictions = module.model(batch.points).predictions
    losses = [
        module.detection.criterion(replace(predictions, codes=predictions.codes + shift), batch.boxes, batch.labels)
        for shift in (torch.zeros(10), torch.tensor([0.0] * 8 + [9.0, -9.0]))
    ]
    assert len(batch.boxes[0]) == 1
    assert float(losses[0]["box"].detach()) > 0
    assert torch.equal(losses[0]["box"], losses[1]["box"])


def test_backbone_learns_slower_and_norms_do_not_decay(make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run(tmp_path, **{"optim.backbone_factor": 0.1, "optim.weight_decay": 0.2})
    module = build_module(config)
    groups = parameter_groups(module, config.optim, module.slow_prefix)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(found) == sum(1 for parameter in module.parameters() if parameter.requires_grad)
    for name, parameter in module.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(1e-4 if name.startswith("model.backbone.") else 1e-3)
        assert group["weight_decay"] == (0.2 if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        # Half a cosine over the four steps after the warm-up, from 1 to a thousandth.
        ("cosine", [0.5, 1.0, 1.0, 0.853699, 0.5005, 0.147301]),
    ],
)
def test_learning_rate_follows_the_schedule(
    make_run: MakeRun, tmp_path: Path, schedule: str, expected: list[float]
) -> None:
    optim = make_run(tmp_path, **{"optim.schedule": schedule, "optim.steps": 6, "optim.learning_rate": 1.0}).optim
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build_schedule(optimizer, optim)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected, abs=1e-5)


def test_one_cycle_schedule_peaks_after_a_fifth_and_lasts_to_the_end(make_run: MakeRun, tmp_path: Path) -> None:
    changes = {"role": "teacher", "optim.schedule": "one_cycle", "optim.steps": 10}
    rates = [line["learning_rate"] for line in losses_of(fit(make_run(tmp_path / "run", **changes)))]
    assert rates[1] == pytest.approx(1e-3)
    assert max(rates) == rates[1]
    assert rates[-1] < 1e-6
    with pytest.raises(ValueError, match=r"needs optim\.steps of at least 6"):
        make_run(tmp_path / "run", **{**changes, "optim.steps": 5})


def test_save_that_breaks_off_leaves_the_last_checkpoint(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(tmp_path / "run", role="teacher", **{"optim.steps": 3, "run.checkpoint_every": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt(monkeypatch, 2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1])))
    try:
        with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: File too large"):
            fit(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"last.ckpt", "losses.jsonl", "config.json"}
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 1


def test_frozen_teacher_of_a_checkpoint_has_its_weights(tiny_teacher: Path) -> None:
    config, teacher = load_teacher(tiny_teacher)
    weights = read_weights(tiny_teacher)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.module.state_dict().items())
    assert config.num_queries == 12
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(("balanced", "pedestrians"), [(False, 3), (True, 4)])
def test_class_balanced_draws(make_run: MakeRun, tmp_path: Path, balanced: bool, pedestrians: int) -> None:
    """One of four samples holds a pedestrian, the others a car and a barrier: a quarter of the draws, or a third."""
    changes = {"role": "teacher", "data.train_split": "tiny_val", "optim.steps": 1, "optim.batch_size": 12}
    data = TrainData(make_run(tmp_path / "run", **changes, **{"optim.class_balanced": balanced}), 0)
    data.trainer = trainer_on("cpu")  # type: ignore[assignment]
    (batch,) = list(data.train_dataloader().batch_sampler)  # type: ignore[arg-type]
    assert [index for index, _ in batch].count(3) == pedestrians


@pytest.mark.parametrize("has_gpu", [False, True])
def test_channels_lie_last_on_a_gpu_alone(
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_gpu: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    changes = {"run.channels_last": True, "run.accelerator": "auto"}
    weight = build_module(make_run(tmp_path, **changes)).model.backbone.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is has_gpu
    assert ("channels_last is left off" in caplog.text) is not has_gpu


def test_options_of_a_student_reach_it(make_run: MakeRun, tmp_path: Path) -> None:
    source = build_module(make_run(tmp_path, **{"optim.seed": 3})).model.backbone.state_dict()
    torch.save({f"img_backbone.{name}": value for name, value in source.items()}, tmp_path / "detector.pth")
    changes = {"run.backbone_weights": str(tmp_path / "detector.pth"), "run.recompute_activations": True}
    student = build_module(make_run(tmp_path, **changes)).model
    assert student.backbone.recompute
    assert student.encoder.recompute
    assert all(torch.equal(value, source[name]) for name, value in student.backbone.state_dict().items())
    with pytest.raises(ValueError, match="holds a backbone already"):
        make_run(tmp_path, **changes, **{"run.initial_weights": "x.ckpt"})
    with pytest.raises(ValueError, match="a teacher has no image backbone"):
        make_run(tmp_path, role="teacher", **changes)


def test_a_run_with_everything_that_saves_memory(make_run: MakeRun, tmp_path: Path) -> None:
    changes = {"run.recompute_activations": True, "run.channels_last": True, "run.precision": "bf16-mixed"}
    plain, saving = (
        losses_of(fit(make_run(tmp_path / name, **settings))) for name, settings in (("a", {}), ("b", changes))
    )
    assert saving[-1]["total"] == pytest.approx(plain[-1]["total"], rel=0.05)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [({"student.frozen_stages": 1}, True), ({"student.backbone_norm": "frozen"}, True), ({}, False)],
)
def test_a_backbone_frozen_at_random_is_told(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], warned: bool
) -> None:
    fit(make_run(tmp_path / "run", **changes, **{"optim.steps": 1}))
    assert ("frozen at random weights; set run.backbone_weights" in caplog.text) is warned
