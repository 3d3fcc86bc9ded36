"""The method table as a page that opens offline: table, curves, gains by class, BEV features, masks."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from matplotlib.figure import Figure

from bevdistill_ros.core.files import atomic_file, write_whole
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.benchmark.distillation.intervals import score_interval
from training.benchmark.distillation.table import HEADER, Table, gains_of, rows_of
from training.data.dataset import dataset_for
from training.data.index.load import DataConfig, load_index
from training.data.sample import Batch, collate
from training.distill.foreground import Mask, foreground_mask
from training.page.html import page, picture, sections
from training.page.html import table as table_of
from training.run.callbacks import LAST, LOSSES
from training.show.bev_map import draw_map, strength_of
from training.teacher.load import TrainedTeacher
from training.weights.checkpoint import read_checkpoint, read_config
from training.weights.model import load_student

MASKS: tuple[Mask, ...] = ("box", "soft", "soft_sharp", "teacher_score")


def write_report(table: Table, folder: Path, *, teacher: TrainedTeacher, split: str) -> Path:
    """Write `report.html` and its pictures into the folder of the runs.

    Args:
        table: What was found.
        folder: Of the benchmark; the runs are in it.
        teacher: Of the rows that name no other.
        split: Whose middle frame is drawn.

    Returns:
        The page.
    """
    pictures = folder / "pictures"
    drawn = {
        "curves.png": ("Training: detection loss", lambda: _curves(table, folder)),
        "classes.png": ("Gain in AP by class over the matching row [points]", lambda: _class_gains(table)),
    }
    if any(table.lines.values()):
        drawn["steps.png"] = ("Scores over training steps", lambda: _scores_over_steps(table))
    students = {
        method: checkpoint_of(table, folder, method) for method in (table.config["baseline"], table.methods[-1])
    }
    here = {f"student, {method}": path for method, path in students.items() if path is not None}
    if here:
        drawn["features.png"] = ("BEV features of one frame", lambda: _features(here, teacher, split))
    for name, (_, draw) in drawn.items():
        with atomic_file(pictures / name) as partial:
            draw().savefig(partial, format="png", dpi=110)
    figures = [(title, picture(f"pictures/{name}", title)) for name, (title, _) in drawn.items()]
    ratio = table.latency_ratio
    cost = "" if ratio is None else f"<p>Latency of the last row's student over that of the baseline: {ratio:.2f}.</p>"
    settings = html.escape(json.dumps(table.config, indent=1))
    making = f"<p>{html.escape(_making(table))}</p><details><summary>Settings</summary><pre>{settings}</pre></details>"
    parts = [("Table", _table(table) + cost), *_questions(table), *figures, ("How it was made", making)]
    path = folder / "report.html"
    write_whole(path, page(f"Distillation, side by side, on {split}", sections(parts)))
    return path


def checkpoint_of(table: Table, folder: Path, method: str) -> Path | None:
    """The checkpoint of a row's first run that was trained here; None where all were kept from elsewhere."""
    paths = (folder / method / f"seed{run.seed}" / LAST for run in table.of(method))
    return next((path for path in paths if path.exists()), None)


def _making(table: Table) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in table.machine.items())
    hours = sum(run.train_seconds for run in table.outcomes) / 3600
    return f"{len(table.outcomes)} trainings, {hours:.1f} hours in all, {table.config['jobs']} at once; {machine}"


def _questions(table: Table) -> list[tuple[str, str]]:
    """The questions, each with the rows that answer it."""
    return [(question, _table(table, rows)) for question, rows in table.questions.items() if rows]


def _table(table: Table, methods: Sequence[str] | None = None) -> str:
    best = max(methods or table.methods, key=lambda method: mean(run.nds for run in table.of(method)))
    rows = rows_of(table, methods)
    caption = (
        f"{table.teacher.split}, {table.teacher.num_samples} frames. NDS and mAP in points, mean and 95 % interval "
        "(bootstrap over scenes and seeds; of one seed over scenes alone), ± a standard deviation over seeds where "
        "scenes are not known; gains seed by seed over the row that is named beside them. Rows whose difference lies "
        "within its interval are in no order. train: training time relative to that "
        "row, memory: more than it takes at its peak; student: same, where the exported one has that row's tensors and "
        "so costs no more at inference, or how many times its numbers."
    )
    kinds = ["best" if row[0] == best else "" for row in rows]
    return table_of(HEADER, rows, caption=caption if methods is None else "", kinds=kinds)


def _curves(table: Table, folder: Path) -> Figure:
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method in table.methods:
        paths = [folder / method / f"seed{run.seed}" / LOSSES for run in table.of(method)]
        logs = [_losses(path) for path in paths if path.exists()]
        if not logs:  # trained elsewhere
            continue
        steps = sorted(set.intersection(*(set(log) for log in logs)))
        for axes, name in ((left, "classification"), (right, "box")):
            values = np.array([[log[step][name] for step in steps] for log in logs]).mean(axis=0)
            axes.plot(steps, _smooth(values), label=method, linewidth=1.2)
    for axes, name in ((left, "classification loss"), (right, "box loss")):
        axes.set(xlabel="step", ylabel=f"{name}, all decoder layers")
        axes.grid(alpha=0.3)
    if right.lines:
        right.legend(fontsize=7)
    return figure


def _scores_over_steps(table: Table) -> Figure:
    """Each line's NDS and mAP, with 95 % intervals; each point is a training of its own."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2), ("nds", "mean_ap"), ("NDS", "mAP"), strict=True):
        for line, points in table.lines.items():
            if not points:
                continue
            steps = sorted(points)
            values = [100 * mean(getattr(run, name) for run in points[step]) for step in steps]
            (drawn,) = axes.plot(steps, values, marker="o", label=line)
            intervals = [
                score_interval(points[step], name) or (value, value) for step, value in zip(steps, values, strict=True)
            ]
            axes.fill_between(steps, *zip(*intervals, strict=True), color=drawn.get_color(), alpha=0.2)
        ticks = sorted({step for points in table.lines.values() for step in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.minorticks_off()
        axes.set(xlabel="training steps", ylabel=f"{title} [points]")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _losses(path: Path) -> dict[int, dict[str, float]]:
    """Lines of a run's log by step."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line for line in lines}


def _smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """Running mean of the last `width` values."""
    return np.array([values[max(0, end - width) : end].mean() for end in range(1, len(values) + 1)])


def _class_gains(table: Table) -> Figure:
    rows = [
        method
        for method in table.methods
        if method != table.baseline_of(method) and class_gains(table, method, CLASS_NAMES[0])
    ]
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(CLASS_NAMES))
    width = 0.8 / max(len(rows), 1)
    for number, method in enumerate(rows):
        gains = [mean(class_gains(table, method, name)) for name in CLASS_NAMES]
        axes.bar(places + (number - (len(rows) - 1) / 2) * width, gains, width, label=method)
    axes.set(xticks=places, xticklabels=CLASS_NAMES, ylabel="gain in AP [points]")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.tick_params(axis="x", rotation=25)
    if rows:
        axes.legend(fontsize=7)
    return figure


def class_gains(table: Table, method: str, name: str) -> list[float]:
    """Gains in AP of a class over the matching row, in points, seed by seed."""
    return gains_of(table.of(method), table.of(table.baseline_of(method)), lambda run: run.class_ap[name])


def _features(students: Mapping[str, Path], teacher: TrainedTeacher, split: str) -> Figure:
    """Strength of the BEV features of teacher and students in one frame, and the masks, ground truth drawn on them."""
    batch = _frame(next(iter(students.values())), teacher.num_sweeps, split)
    said = teacher.teacher.of(batch)
    maps = {"teacher": said.map_of()}
    for name, checkpoint in students.items():
        with torch.inference_mode():
            maps[name] = load_student(checkpoint)[1](batch.cameras).bev
    grid = teacher.grid
    panels = {name: strength_of(value[0]) for name, value in maps.items()}
    for mask in MASKS:
        weights = foreground_mask(mask, batch.boxes, grid, sigma=1.6, predictions=said.predictions)
        panels[f"mask {mask}"] = weights[0].numpy()
    figure = Figure(figsize=(4 * 4, 2 * 4.1), layout="constrained")
    axes = figure.subplots(2, 4).flatten()
    for place, (name, values) in zip(axes, panels.items(), strict=False):
        draw_map(place, values, batch.boxes[0], grid, name)
    for place in axes[len(panels) :]:
        place.axis("off")
    return figure


def _frame(student: Path, num_sweeps: int, split: str) -> Batch:
    """The frame in the middle of a split, as the student sees it, with LiDAR points."""
    data = read_config(read_checkpoint(student))["data"]
    config = DataConfig(
        root=Path(data["root"]),
        version=data["version"],
        num_sweeps=num_sweeps,
        cache_dir=Path(data["cache_dir"]) if data["cache_dir"] else None,
    )
    dataset = dataset_for(
        config, load_student(student)[0], load_index(config), split, with_images=True, with_points=True
    )
    return collate([dataset[len(dataset) // 2]])
