"""`bevdistill gate`: criteria, intervals over scenes, exit status."""

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.cli.commands import main
from training.evaluate.metrics import Metrics
from training.score.boxes import BoxTable
from training.score.frames import Frames
from training.score.parts import distance_bands
from training.score.report import head_of, scores_of

SCENES, FRAMES = 12, 5
CAR, PEDESTRIAN = CLASS_NAMES.index("car"), CLASS_NAMES.index("pedestrian")
FAR = "30 m and more"


def boxes(frame: np.ndarray, label: np.ndarray, centre: np.ndarray, score: np.ndarray) -> BoxTable:
    """The vehicle stands at the origin."""
    return BoxTable(
        frame=frame,
        label=label,
        centre=centre,
        size=np.tile([2.0, 4.0, 1.5], (len(frame), 1)),
        yaw=np.zeros(len(frame)),
        velocity=np.zeros((len(frame), 2)),
        attribute=np.full(len(frame), ""),
        score=score,
        distance=np.linalg.norm(centre, axis=1),
    )


class World:
    """Objects that stand still, and a detector that finds most of them and some that are none."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        places = [random.uniform(-45, 45, (14, 2)) for _ in range(SCENES)]
        count = SCENES * FRAMES
        self.frames = Frames(
            tokens=tuple(f"frame{number}" for number in range(count)),
            scenes=tuple(f"scene-{number:02d}" for number in range(SCENES)),
            scene=np.arange(count) // FRAMES,
            stamp_us=np.arange(count) * 500_000,
            ego=np.zeros((count, 3)),
        )
        centre = np.concatenate([places[number // FRAMES] for number in range(count)])
        frame, label = np.repeat(np.arange(count), 14), np.tile([CAR] * 7 + [PEDESTRIAN] * 7, count)
        self.truth = boxes(frame, label, centre, np.full(len(frame), -1.0))
        found = boxes(frame, label, centre + random.normal(0, 0.4, centre.shape), random.uniform(0.4, 0.95, len(frame)))
        found = found.take(random.random(len(frame)) < 0.85)
        stray = random.integers(0, count, 2 * count)
        strays = boxes(
            stray,
            random.choice([CAR, PEDESTRIAN], len(stray)),
            random.uniform(-45, 45, (len(stray), 2)),
            random.uniform(0.05, 0.6, len(stray)),
        )
        rows = np.argsort(np.concatenate([found.frame, strays.frame]), kind="stable")
        columns = {name: np.concatenate([getattr(found, name), getattr(strays, name)])[rows] for name in vars(found)}
        self.found = BoxTable(**columns)

    def report(self, path: Path, found: BoxTable | None = None, *, scored: bool = True) -> Path:
        found = self.found if found is None else found
        content = head_of({"root": "/data", "version": "v1.0-test", "split": "val"}, self.frames, found, 0.3)
        if scored:
            official = Metrics(
                split="val",
                num_samples=SCENES * FRAMES,
                nds=0.5,
                mean_ap=0.5,
                tp_errors=dict.fromkeys(ERROR_NAMES, 0.5),
                class_ap=dict.fromkeys(CLASS_NAMES, 0.5),
                class_tp_errors={name: dict.fromkeys(ERROR_NAMES, 0.5) for name in CLASS_NAMES},
            )
            groups = {"bands": distance_bands((0.0, 30.0))}
            content |= scores_of(official, self.truth, found, self.frames, groups, with_scenes=False)[0]
        results: dict[str, list[dict[str, Any]]] = {token: [] for token in self.frames.tokens}
        for frame, label, centre, score in zip(found.frame, found.label, found.centre, found.score, strict=True):
            results[self.frames.tokens[frame]].append(
                {
                    "translation": [*centre.tolist(), 0.0],
                    "detection_name": CLASS_NAMES[label],
                    "detection_score": float(score),
                }
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "results.json").write_text(json.dumps({"meta": {}, "results": results}))
        path.write_text(json.dumps(content))
        return path


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def baseline(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.report(tmp_path_factory.mktemp("baseline") / "report.json")


Judge = Callable[..., tuple[int, str]]


@pytest.fixture
def judge(baseline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    def run(criteria: list[dict[str, Any]], report: Path = baseline, *options: str, **settings: Any) -> tuple[int, str]:
        content = {"bootstrap": {"samples": 60}, **settings, "criteria": criteria}
        (tmp_path / "gate.yaml").write_text(yaml.safe_dump(content))
        status = main(["gate", "--gate", str(tmp_path / "gate.yaml"), "--report", str(report), *options])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


USUAL = [
    {"metric": "mAP", "at_most_worse": 0.01},
    {"metric": "AP", "class": "each", "band": "each", "at_most_worse": "10 %"},
    {"metric": "recall", "class": "car", "at_precision": 0.6, "at_most_worse": 0.05},
    {"metric": "ATE", "at_most_worse": 0.05},
    {"metric": "flicker", "at_most_worse": 0.05},
    {"metric": "score_shift", "max": 0.2},
]


def test_a_loss_of_one_class_beyond_30_m_is_caught_and_named(
    world: World, baseline: Path, judge: Judge, tmp_path: Path
) -> None:
    found = world.found
    is_lost = (found.label == CAR) & (found.distance > 30) & (np.arange(len(found)) % 2 == 0)
    report = world.report(tmp_path / "new" / "report.json", found.take(~is_lost))
    options = ("--baseline", str(baseline), "--junit", str(tmp_path / "gate.xml"), "--output", str(tmp_path / "g.json"))
    status, text = judge([{"metric": "NDS", "at_most_worse": 0.01}, *USUAL], report, *options)
    assert status == 1
    failed = [line for line in text.splitlines() if line.startswith("FAIL")]
    assert any(f"AP, car, {FAR}" in line for line in failed)
    assert not any("pedestrian" in line or "0 to 30 m" in line for line in failed)
    suite = ET.parse(tmp_path / "gate.xml").getroot()
    cases = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert f"AP, car, {FAR}, at most 10 % worse" in cases
    assert suite.get("failures") == str(len(cases)) == str(len(failed))
    assert json.loads((tmp_path / "g.json").read_text())["passed"] is False


@pytest.mark.parametrize("seed", range(10))
def test_an_unchanged_model_passes(seed: int, world: World, baseline: Path, judge: Judge, tmp_path: Path) -> None:
    """Once as it is, and with another jitter of scores and places for each seed."""
    random, found = np.random.default_rng(seed), world.found
    jitter = {
        "score": np.clip(found.score + random.normal(0, 0.03, len(found)), 0.01, 1),
        "centre": found.centre + random.normal(0, 0.05, found.centre.shape),
    }
    report = world.report(tmp_path / "new" / "report.json", BoxTable(**{**vars(found), **jitter}))
    status, text = judge(USUAL, report, "--baseline", str(baseline), bootstrap={"samples": 40, "seed": seed})
    assert status == 0, text
    if seed == 0:
        status, text = judge(USUAL, baseline, "--baseline", str(baseline))
        assert status == 0
        assert "UNDECIDED" not in text


def test_doubt_counts_as_the_gate_says(world: World, baseline: Path, judge: Judge, tmp_path: Path) -> None:
    random, found = np.random.default_rng(0), world.found
    jittered = BoxTable(**{**vars(found), "score": np.clip(found.score + random.normal(0, 0.2, len(found)), 0.01, 1)})
    report = world.report(tmp_path / "new" / "report.json", jittered)
    criteria = [{"metric": "AP", "class": "car", "at_most_worse": 0.0}]
    loss = judge(criteria, report, "--baseline", str(baseline))[1]
    interval = [float(value) for value in loss.split("[")[1].split("]")[0].split(",")]
    middle = [{**criteria[0], "at_most_worse": max(sum(interval) / 2, 0)}]
    outcomes = [
        judge(middle, report, "--baseline", str(baseline), undecided=kind) for kind in ("pass", "fail", "point")
    ]
    assert all("UNDECIDED" in text for _, text in outcomes)
    assert [status for status, _ in outcomes[:2]] == [0, 1]


def test_limits_on_values(judge: Judge) -> None:
    status, text = judge(
        [
            {"metric": "AP", "class": "car", "threshold": 2.0, "min": 0.5},
            {"metric": "AP", "class": "pedestrian", "min": 0.99, "name": "people"},
            {"metric": "AOE", "class": "car", "max": 0.01},
            {"metric": "mAP", "scene": "scene-03", "min": 0.1},
        ]
    )
    assert status == 1
    assert [line.split()[0] for line in text.splitlines()[1:5]] == ["FAIL", "PASS", "PASS", "PASS"]
    assert "people: AP, pedestrian" in text
    assert "gate failed: 1 of 4 rows failed" in text


def test_a_class_without_ground_truth_never_passes_silently(judge: Judge) -> None:
    criteria = [{"metric": "AP", "class": "bus", "min": 0.0}]
    status, text = judge(criteria)
    assert (status, "no ground truth" in text) == (1, True)
    status, text = judge(criteria, no_ground_truth="skip")
    assert (status, "SKIP" in text, "1 skipped" in text) == (0, True, True)


def test_detections_alone(world: World, judge: Judge, tmp_path: Path) -> None:
    report = world.report(tmp_path / "new" / "report.json", scored=False)
    square = [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    status, text = judge(
        [
            {"metric": "ghosts", "area": (np.array(square) * 50).tolist(), "score": 0.3, "name": "everywhere"},
            {"metric": "ghosts", "area": (np.array(square) + 500).tolist(), "frame": "vehicle", "name": "nowhere"},
            {"metric": "boxes_per_frame", "min": 1, "max": 12},
            {"metric": "mean_boxes", "class": "car", "min": 3, "max": 9},
            {"metric": "flicker", "max": 0.5},
        ],
        report,
    )
    assert status == 1
    failed = [line for line in text.splitlines() if line.startswith("FAIL")]
    confident = int((world.found.score >= 0.3).sum())
    assert len(failed) == 2
    assert f" {confident} " in next(line for line in failed if "everywhere" in line)
    assert "scene-" in next(line for line in failed if "boxes_per_frame" in line)
    assert "no scores" in judge([{"metric": "NDS", "min": 0}], report)[1]


def test_flicker_and_shift_see_what_counts_do_not(world: World, baseline: Path, judge: Judge, tmp_path: Path) -> None:
    found = world.found
    confident = found.score >= 0.3
    blinks = confident & (found.frame % 2 == 0) & (np.arange(len(found)) % 4 == 0)
    report = world.report(tmp_path / "new" / "report.json", found.take(~blinks))
    criteria = [{"metric": "flicker", "at_most_worse": 0.05}, {"metric": "score_shift", "max": 0.2}]
    status, text = judge(criteria, report, "--baseline", str(baseline))
    assert (status, text.count("FAIL")) == (1, 1)
    assert "flicker" in text.splitlines()[1]
    lower = BoxTable(**{**vars(found), "score": found.score * 0.6})
    status, text = judge(
        criteria[1:], world.report(tmp_path / "new" / "report.json", lower), "--baseline", str(baseline)
    )
    assert status == 1


def test_timing_is_that_of_a_replay(baseline: Path, judge: Judge, tmp_path: Path) -> None:
    def replay(name: str, p95: float, lost: int) -> str:
        stage = {"p50": 20.0, "p95": p95, "max": 90.0, "count": 100}
        content = {"latency_ms": {"inference": stage}, "sets_sent": 100, "sets_lost": lost}
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    criteria: list[dict[str, Any]] = [
        {"metric": "latency", "stage": "inference", "percentile": 95, "max": 50, "at_most_worse": "10 %"},
        {"metric": "drop_share", "max": 0.02},
    ]
    pair = ("--baseline_replay", replay("old.json", 30.0, 0))
    assert judge(criteria, baseline, "--replay", replay("new.json", 32.0, 2), *pair)[0] == 0
    status, text = judge(criteria, baseline, "--replay", replay("new.json", 40.0, 3), *pair)
    assert (status, text.count("FAIL")) == (1, 2)
    assert judge(criteria, baseline)[0] == 2
    status, text = judge([{**criteria[0], "percentile": 99}], baseline, "--replay", replay("new.json", 40.0, 3), *pair)
    assert (status, "no percentile 99; it has p50, p95, p100" in text) == (2, True)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"metric": "ADE", "min": 0}, "unknown metric 'ADE'; did you mean"),
        ({"metric": "AP", "class": "cars", "min": 0}, "unknown class 'cars'; did you mean 'car'?"),
        ({"metric": "AP", "class": "car", "band": "20 m", "min": 0}, "unknown band '20 m'"),
        (
            {"metric": "AP", "class": "car", "region": "depot", "min": 0},
            "unknown region 'depot'; the report has no regions",
        ),
        ({"metric": "AP", "min": 0}, "AP needs class"),
        ({"metric": "AP", "class": "car"}, "AP needs one of min, max, at_most_worse"),
        ({"metric": "AP", "class": "car", "mni": 0}, "unknown key 'mni'; did you mean 'min'?"),
        ({"metric": "NDS", "class": "car", "min": 0}, "a criterion on NDS has the unknown key 'class'"),
        ({"metric": "AP", "class": "car", "threshold": 3, "min": 0}, "threshold must be one of 0.5, 1, 2, 4"),
        ({"metric": "NDS", "min": "high"}, "min must be a number, but is 'high'"),
        ({"metric": "NDS", "min": math.nan}, "min must be a number"),
        ({"metric": "NDS", "at_most_worse": -0.1}, "at_most_worse must be a number of at least 0"),
        ({"metric": "NDS", "at_most_worse": 0.1}, "at_most_worse needs --baseline"),
        ({"metric": "score_shift", "max": 0.1}, "score_shift needs --baseline"),
        ({"metric": "AVE", "class": "barrier", "max": 1}, "no AVE of class 'barrier'"),
        ({"metric": "ghosts", "area": [[0, 0], [1, 1]]}, "area must be at least three corners"),
        ({"metric": "NDS", "band": FAR, "scene": "scene-01", "min": 0}, "but not two of them"),
    ],
)
def test_a_mistake_in_a_gate_is_one_clear_line(judge: Judge, criterion: dict[str, Any], message: str) -> None:
    status, text = judge([criterion])
    assert (status, len(text.splitlines())) == (2, 1)
    assert message in text


def test_scores_in_time_are_those_of_the_report(baseline: Path, judge: Judge, tmp_path: Path) -> None:
    content = json.loads(baseline.read_text())
    (tmp_path / "new.json").write_text(json.dumps({**content, "latency_aware": {"nds": 0.3, "mean_ap": 0.2}}))
    (tmp_path / "old.json").write_text(json.dumps({**content, "latency_aware": {"nds": 0.35, "mean_ap": 0.2}}))
    criteria = [{"metric": "latency_aware_NDS", "min": 0.25, "at_most_worse": 0.02}]
    status, text = judge(criteria, tmp_path / "new.json", "--baseline", str(tmp_path / "old.json"))
    assert (status, text.count("FAIL"), "worse" in text.splitlines()[1]) == (1, 1, True)
    assert judge(criteria, baseline, "--baseline", str(tmp_path / "old.json"))[0] == 2


def test_damaged_reports_are_one_clear_line(baseline: Path, judge: Judge, tmp_path: Path) -> None:
    """Every value in the report's upper levels in turn is something else."""
    content = json.loads(baseline.read_text())
    criteria = [
        *USUAL,
        {"metric": "boxes_per_frame", "max": 99},
        {"metric": "ghosts", "area": [[0, 0], [1, 1], [0, 1]]},
    ]
    usual = [entry for entry in criteria if "at_most_worse" not in entry and entry["metric"] != "score_shift"]
    usual += [{"metric": "AP", "class": "each", "band": "each", "min": 0}]

    def places(value: object, depth: int) -> list[list[Any]]:
        if not isinstance(value, dict) or not depth:
            return []
        return [[key, *rest] for key in value for rest in ([], *places(value[key], depth - 1))]

    for place in places({key: content[key] for key in ("schema", "source", "frames", "detections", "matches")}, 3):
        for other in (None, ["x"]):
            damaged = json.loads(json.dumps(content))
            inner = damaged
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = other
            (baseline.parent / "damaged.json").write_text(json.dumps(damaged))
            status, text = judge(usual, baseline.parent / "damaged.json")
            assert status in (0, 1) or (status == 2 and len(text.splitlines()) == 1), (place, other, text)


def test_reports_that_do_not_fit_are_refused(world: World, baseline: Path, judge: Judge, tmp_path: Path) -> None:
    content = json.loads(baseline.read_text())
    content["matches"]["whole"]["car"]["truth"][2] += 1
    (tmp_path / "other.json").write_text(json.dumps(content))
    status, text = judge(USUAL, baseline, "--baseline", str(tmp_path / "other.json"))
    assert (status, "ground truth differs (car in scene 'scene-02')" in text) == (2, True)
    (tmp_path / "other.json").write_text("[]")
    assert judge(USUAL, tmp_path / "other.json")[0] == 2
    (tmp_path / "other.json").write_text('{"schema": 0}')
    assert "is not of `bevdistill score` of this version" in judge(USUAL, tmp_path / "other.json")[1]
    assert judge([], baseline)[0] == 2
