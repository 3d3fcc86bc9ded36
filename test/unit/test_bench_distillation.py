import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import training.benchmark.distillation.run as benchmark
from training.benchmark.distillation.config import DistillationConfig
from training.benchmark.distillation.outcome import Outcome
from training.benchmark.distillation.report import _scores_over_steps, class_gains
from training.benchmark.distillation.run import run_distillation
from training.benchmark.distillation.table import Table, paired_gains, rows_of
from training.cli.settings import settings_from
from training.evaluate.metrics import Metrics
from training.run.callbacks import LAST, LOSSES, LossLog
from training.run.config import TrainConfig
from training.run.fit import fit
from training.weights.checkpoint import config_text, read_checkpoint

Bench = Callable[..., DistillationConfig]
CHANGING = ("train_seconds", "peak_memory_bytes")


@pytest.fixture(scope="module")
def files(train_arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training configurations of a tiny teacher and a tiny student."""
    folder = tmp_path_factory.mktemp("configs")
    for role in ("teacher", "student"):
        settings: dict[str, Any] = {"role": role}
        words = train_arguments(folder, **{"criterion.heatmap": 1.0, "optim.steps": 4, "run.checkpoint_every": 2})
        for word in words:
            name, value = word.removeprefix("--").split("=", 1)
            place = settings
            *parts, last = name.split(".")
            for part in parts:
                place = place.setdefault(part, {})
            place[last] = yaml.safe_load(value)
        (folder / f"{role}.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def bench(files: Path, tiny_teacher: Path, tmp_path: Path) -> Bench:
    def make(folder: str, **changes: Any) -> DistillationConfig:
        settings: dict[str, Any] = {
            "name": "tiny",
            "teacher_checkpoint": str(tiny_teacher),
            "student": files / "student.yaml",
            "arms": {
                "none": {},
                "fitnet": {"distill.method": "fitnet"},
                "bevdistill": {"distill.method": "bevdistill"},
            },
            "seeds": (0, 1),
            "split": "tiny_val",
            "output": tmp_path / folder,
            "results": tmp_path / folder / "results",
            "isolate": False,
        }
        return DistillationConfig(**{**settings, **changes})

    return make


def results_of(config: DistillationConfig) -> list[dict[str, Any]]:
    content = json.loads((config.results / "distillation-tiny.json").read_text())
    return [{name: value for name, value in run.items() if name not in CHANGING} for run in content["runs"]]


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_to_the_same_table(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {
        "ablations": {"plain": {"distill.method": "bevdistill_dense", "distill.bevdistill_dense.mask": "none"}},
        "row_seeds": {"plain": (1,)},
        "questions": {"Does plain imitation help?": ("none", "plain")},
        "settings": {"optim.steps": 4},
        "lines": {"with": ("bevdistill",), "without": ("none",)},
    }
    whole, cut = bench("whole", **changes), bench("cut", **changes)
    closing = run_distillation(whole)

    original, steps = LossLog.on_train_batch_end, []

    def dies(self: LossLog, *rest: Any) -> None:
        original(self, *rest)
        steps.append(1)
        if len(steps) == 4 + 3:  # in the middle of the second run
            raise RuntimeError("killed")

    monkeypatch.setattr(LossLog, "on_train_batch_end", dies)
    with pytest.raises(RuntimeError, match="killed"):
        run_distillation(cut)
    assert len(results_of(cut)) == 1
    run_distillation(cut)
    assert len(steps) == 4 * 7 + 1  # one step was done again, no finished run
    assert results_of(cut) == results_of(whole)
    assert [(run["method"], run["seed"]) for run in results_of(whole)] == [
        *((method, seed) for method in ("none", "fitnet", "bevdistill") for seed in (0, 1)),
        ("plain", 1),
    ]
    assert {"nds", "mean_ap", "tp_errors", "split", "class_ap", "parameters"} <= results_of(whole)[0].keys()
    assert results_of(whole)[0]["without_scenes"].keys() == {"scene-stand", "scene-drive"}
    for line in ("none", "fitnet", "bevdistill", "LiDAR teacher", "latency of the last row's student", "Does plain"):
        assert line in closing
    # What is done is not done again.
    monkeypatch.setattr(benchmark, "fit", lambda *_: pytest.fail("trained again"))
    assert without_latency(run_distillation(whole)) == without_latency(closing)
    page = (whole.output / "report.html").read_text()
    pictures = re.findall(r'src="([^"]+)"', page)
    assert len(pictures) == 4
    assert page.count("<table>") == 2
    assert "<h2>Does plain imitation help?</h2>" in page
    assert all((whole.output / picture).stat().st_size > 5000 for picture in pictures)
    assert "http" not in page.replace("https", "http").split("<details>")[0]


def test_a_mistake_is_told_before_hours_of_training(bench: Bench, files: Path) -> None:
    config = bench("runs", teacher=files / "teacher.yaml", teacher_checkpoint="")
    with pytest.raises(ValueError, match="has no split 'tiny_vall'; splits found: tiny_train, tiny_val"):
        run_distillation(replace(config, split="tiny_vall"))
    with pytest.raises(ValueError, match="row none: unknown setting"):
        run_distillation(replace(config, arms={"none": {"optim.stepz": 3}}))
    assert not config.output.exists()
    other = {"none": {}, "more": {"data.train_split": "tiny_trian"}}
    with pytest.raises(ValueError, match="has no split 'tiny_trian'"):
        run_distillation(bench("data", arms=other))


def without_latency(closing: str) -> list[str]:
    return [line for line in closing.splitlines() if not line.startswith("latency")]


@pytest.mark.slow
def test_a_table_grows_from_the_result_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    arms: dict[str, Any] = {"none": {}, "fitnet": {"distill.method": "fitnet"}}
    first = bench("first", arms=arms, seeds=(0,))
    run_distillation(first)
    original, trained = benchmark.fit, []

    def counted(training: TrainConfig) -> Path:
        trained.append(Path(training.run.output).relative_to(more.output).as_posix())
        if len(trained) == 2:
            raise RuntimeError("killed")
        return original(training)

    monkeypatch.setattr(benchmark, "fit", counted)
    more = bench("more", arms=arms, results=first.results, keep_results=True)
    with pytest.raises(RuntimeError, match="killed"):
        run_distillation(more)
    assert len(results_of(more)) == 3  # nothing that was there is lost
    closing = run_distillation(more)
    assert trained == ["none/seed1", "fitnet/seed1", "fitnet/seed1"]
    assert len(results_of(more)) == 4
    assert "report" in closing
    # Without a training of its own there is a page all the same.
    trained.clear()
    again = replace(more, output=more.output.with_name("again"))
    assert len(results_of(again)) == 4
    run_distillation(again)
    assert not trained
    # Other settings, another teacher or another split are other runs.
    more = replace(
        more, output=more.output.with_name("other"), arms={"none": {"optim.learning_rate": 1e-4}}, seeds=(0,)
    )
    run_distillation(more)
    assert trained == ["none/seed0"]
    (first.results / "distillation-tiny.json").write_text("{}")
    with pytest.raises(ValueError, match=r"distillation-tiny\.json is no result file of this benchmark"):
        run_distillation(more)


def test_a_finished_run_of_another_teacher_is_refused(bench: Bench, tiny_teacher: Path, tmp_path: Path) -> None:
    own = tmp_path / "teacher.ckpt"
    own.write_bytes(tiny_teacher.read_bytes())
    config = bench("runs", arms={"none": {}}, seeds=(0,), teacher_checkpoint=str(own))
    run_distillation(config)
    content = torch.load(own, weights_only=True)
    content["global_step"] += 1
    torch.save(content, own)
    with pytest.raises(ValueError, match=r"teacher\.ckpt has changed since the runs in .*runs; choose another output"):
        run_distillation(config)
    with pytest.raises(ValueError, match=r"no checkpoint at .*gone\.ckpt; correct teacher_checkpoint"):
        run_distillation(replace(config, teacher_checkpoint=str(tmp_path / "gone.ckpt")))


def test_a_finished_run_of_other_settings_is_refused(bench: Bench) -> None:
    config = bench("runs", arms={"none": {}}, seeds=(0,))
    run_distillation(config)
    changed = replace(config, settings={"optim.learning_rate": 1e-4})
    with pytest.raises(ValueError, match=r"none/seed0 holds a run of other settings \(optim\.learning_rate\)"):
        run_distillation(changed)


def test_mistakes_in_rows_are_named(bench: Bench) -> None:
    with pytest.raises(
        ValueError, match="there is no row best, which a baseline, row_seeds, a question or a line names; rows are none"
    ):
        bench("runs", baseline="best")
    with pytest.raises(ValueError, match="there is no row best, which"):
        bench("runs", row_seeds={"best": (0,)})
    with pytest.raises(ValueError, match="there is no row best, which"):
        bench("runs", lines={"distilled": ("best",)})
    with pytest.raises(ValueError, match=r"lines: row none does not set optim\.steps, by which it would be drawn"):
        bench("runs", lines={"without": ("none",)})
    with pytest.raises(ValueError, match=r"lines: two rows of both have the same optim\.steps"):
        bench("runs", settings={"optim.steps": 3}, lines={"both": ("none", "bevdistill")})
    with pytest.raises(ValueError, match="seeds and row_seeds must name at least one seed each"):
        bench("runs", row_seeds={"none": ()})
    with pytest.raises(ValueError, match="ablations: no question names plain"):
        bench("runs", ablations={"plain": {}})
    with pytest.raises(ValueError, match="jobs above 1 need isolate"):
        bench("runs", jobs=2)
    with pytest.raises(ValueError, match="ablations: none is an arm too"):
        bench("runs", ablations={"none": {}}, questions={"Why?": ("none",)})
    with pytest.raises(ValueError, match="row none: there is no teacher weak; teachers names none"):
        bench("runs", arms={"none": {"teacher": "weak"}})
    with pytest.raises(ValueError, match=r"row none: teacher needs distill\.method or distill\.inherit in the row"):
        bench("runs", arms={"none": {"teacher": "weak"}}, teachers={"weak": {}})
    with pytest.raises(
        ValueError, match=r"row fitnet: unknown setting 'distil\.method'; did you mean 'distill\.method'"
    ):
        run_distillation(bench("runs", arms={"none": {}, "fitnet": {"distil.method": "fitnet"}}))


@pytest.mark.slow
def test_teacher_is_trained_and_runs_are_processes_of_their_own(bench: Bench, files: Path) -> None:
    config = bench(
        "runs",
        teacher=files / "teacher.yaml",
        teacher_checkpoint="",
        teachers={"weak": {"optim.steps": 1}},
        arms={
            "none": {},
            "fitnet": {"distill.method": "fitnet"},
            "of_weak": {"distill.method": "fitnet", "teacher": "weak"},
        },
        seeds=(0,),
        jobs=2,
        isolate=True,
    )
    run_distillation(config)
    assert len(results_of(config)) == 3
    assert (config.output / "teacher/last.ckpt").is_file()
    for row, folder in (("fitnet", "teacher"), ("of_weak", "teacher_weak")):
        written = json.loads((config.output / row / "seed0/config.json").read_text())
        assert written["teacher_checkpoint"] == str(config.output / folder / "last.ckpt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the trainings in /proc")
def test_trainings_end_with_the_benchmark_and_have_their_folders_alone(bench: Bench) -> None:
    config = bench("runs", arms={"none": {}}, seeds=(0, 1), jobs=2, isolate=True, settings={"optim.steps": 10_000})
    wanted = config.output / "bench.yaml"
    wanted.parent.mkdir()
    wanted.write_text(config_text(config))
    command = [sys.executable, "-m", "training", "bench", "distillation", "--config", str(wanted)]
    folders = [config.output / f"none/seed{seed}" for seed in (0, 1)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: all((folder / LAST).exists() for folder in folders), timeout_s=240.0)
        trainings = children_of(process.pid)
        assert len(trainings) == 2
        with pytest.raises(OSError, match="another process is training in"):
            fit(training_of(folders[0]))
        process.terminate()  # it alone, as a job control or a container does
        _, errors = process.communicate(timeout=60.0)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "bevdistill: interrupted; the same command goes on"
    assert not any(Path(f"/proc/{pid}").exists() for pid in trainings)
    for folder in folders:
        steps = [json.loads(line)["step"] for line in (folder / LOSSES).read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1))
        assert steps[-1] - 1 <= read_checkpoint(folder / LAST)["global_step"] <= steps[-1]


def wait_until(is_so: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def training_of(folder: Path) -> TrainConfig:
    return settings_from(TrainConfig, [f"--config={folder / 'wanted.json'}"])


def outcome(method: str, seed: int, nds: float, **changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "split": "val",
        "mean_ap": nds / 2,
        "tp_errors": {"trans_err": 0.5},
        "class_ap": {"car": 0.8 * nds},
        "train_seconds": 100.0,
        "peak_memory_bytes": 2**30,
        "parameters": 6,
        "graph": "one",
    }
    return Outcome(method=method, seed=seed, nds=nds, **{**settings, **changes})


def test_gains_are_paired_by_seed_and_spreads_are_over_seeds() -> None:
    teacher = Metrics(
        split="val", num_samples=9, nds=0.4, mean_ap=0.3, tp_errors={"trans_err": 0.4}, class_ap={}, class_tp_errors={}
    )
    outcomes = [
        *(outcome("plain", seed, nds) for seed, nds in ((0, 0.10), (1, 0.20))),
        # Its last run was held up, which a median does not show.
        *(
            outcome("better", seed, nds, train_seconds=seconds)
            for seed, nds, seconds in ((0, 0.15, 149.0), (1, 0.24, 150.0), (2, 0.9, 900.0))
        ),
        outcome("wider", 0, 0.3, graph="other", parameters=8, peak_memory_bytes=2**30 + 2**20),
    ]
    config = {
        "baseline": "plain",
        "baselines": {"wider": "better"},
        "arms": {"plain": {}, "better": {}},
        "ablations": {"wider": {"teacher": "weak", "optim.steps": 40}, "untrained": {}},
        "questions": {"Wider?": ["wider"], "Better?": ["plain", "better"]},
        "settings": {"optim.steps": 30},
        "lines": {"one": ["wider", "plain"], "other": ["untrained"]},
    }
    table = Table(
        config=config,
        machine={},
        teacher=teacher,
        teachers={"weak": replace(teacher, nds=0.2)},
        outcomes=outcomes,
        latency_ratio=None,
    )
    assert table.lines == {"one": {40: table.of("wider"), 30: table.of("plain")}, "other": {}}
    left, right = _scores_over_steps(table).axes  # the empty line is left out
    assert [line.get_label() for axes in (left, right) for line in axes.lines] == ["one", "one"]
    assert list(left.lines[0].get_ydata()) == pytest.approx([15.0, 30.0])
    standard = replace(table, config={**config, "arms": {}})  # an empty table of rows stands for the standard ones
    assert standard.lines["one"].keys() == {40, 30}
    assert paired_gains(table.of("better"), table.of("plain"), "nds") == pytest.approx([5.0, 4.0])
    assert class_gains(table, "better", "car") == pytest.approx([4.0, 3.2])
    first, plain, better = rows_of(table)
    strong, weak, wider = rows_of(table, table.questions["Wider?"])
    assert [cells[:3] for cells in (strong, weak)] == [
        ("LiDAR teacher", "", "40.0"),
        ("LiDAR teacher weak", "", "20.0"),
    ]
    assert [cells[0] for cells in rows_of(table, table.questions["Better?"])] == ["plain", "better"]
    assert first[:4] == ("LiDAR teacher", "", "40.0", "30.0")
    assert plain[:7] == ("plain", "2", "15.0 ±7.1", "7.5 ±3.5", "", "", "")
    assert better[:2] == ("better", "3")
    assert better[4:7] == ("+4.5 ±0.7", "+2.2 ±0.4", "plain")
    assert better[-3:] == ("1.50x", "+0 MiB", "same")
    assert wider[:7] == ("wider", "1", "30.0", "15.0", "+15.0", "+7.5", "better")
    assert wider[-3:] == ("0.67x", "+1 MiB", "1.33x")
