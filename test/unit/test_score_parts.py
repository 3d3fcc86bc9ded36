"""`bevdistill score`: parts of a split by distance, region and scene."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.core.records import Detections
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.evaluate.metrics import Metrics
from training.evaluate.results import results_from
from training.score.by_class import ClassMatches
from training.score.parts import distance_bands, regions_of
from training.score.run import ScoreConfig, run_score
from training.score.schema import REPORT

SPLIT = "tiny_train"


@pytest.fixture
def index(tiny_world: Any) -> NuScenesIndex:
    return load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))


def write_results(index: NuScenesIndex, path: Path, *, within: float) -> Path:
    """The ground truth nearer than `within` [m] as detections, each of a score of its own."""
    found = {}
    for number in map(int, index.samples_of(SPLIT)):
        rows = index.boxes_of(number)
        boxes = torch.tensor(index.boxes[rows]).nan_to_num()
        keep = boxes[:, :2].norm(dim=-1) < within
        found[index.token(number)] = Detections(
            stamp_ns=int(index.stamps_ns[number]),
            boxes=boxes[keep],
            scores=torch.linspace(0.9, 0.5, int(keep.sum())),
            labels=torch.tensor(index.labels[rows])[keep],
        )
    path.write_text(json.dumps(results_from(found, index.poses_of(SPLIT))))
    return path


def config_of(index: NuScenesIndex, tmp_path: Path, *, within: float, **changes: Any) -> ScoreConfig:
    results = write_results(index, tmp_path / "results.json", within=within)
    config = ScoreConfig(
        results=results, root=index.root, version=index.version, split=SPLIT, output=tmp_path / "score"
    )
    return replace(config, **changes)


def test_a_loss_beyond_a_distance_shows_in_its_band(index: NuScenesIndex, tmp_path: Path) -> None:
    distances = torch.cat(
        [
            torch.tensor(index.boxes[index.boxes_of(int(number))])[:, :2].norm(dim=-1)
            for number in index.samples_of(SPLIT)
        ]
    )
    edge = float(distances.sort().values[len(distances) // 2]) - 0.01
    text = run_score(config_of(index, tmp_path, within=edge, bands=(0.0, edge)))
    report = json.loads((tmp_path / "score" / REPORT).read_text())
    near, far = report["bands"].values()
    assert near["mean_ap"] == pytest.approx(1.0)
    assert far["mean_ap"] == 0.0
    assert sum(near["boxes"].values()) + sum(far["boxes"].values()) == len(distances)
    assert f"{edge:g} m and more" in text
    assert Metrics(**report["whole"]).mean_ap < 1.0


def test_one_part_of_everything_is_the_official_score_over_its_classes(index: NuScenesIndex, tmp_path: Path) -> None:
    run_score(config_of(index, tmp_path, within=15.0, bands=(0.0,), scenes=True))
    report = json.loads((tmp_path / "score" / REPORT).read_text())
    (everything,) = report["bands"].values()
    whole = report["whole"]
    assert everything["metrics"]["class_ap"] == whole["class_ap"]
    assert everything["metrics"]["nds"] == pytest.approx(whole["nds"], abs=1e-6)
    assert everything["mean_ap"] * len(everything["boxes"]) == pytest.approx(10 * whole["mean_ap"])
    scenes = report["scenes"]
    assert sum(sum(scene["boxes"].values()) for scene in scenes.values()) == sum(everything["boxes"].values())


def test_a_region_holds_what_lies_in_its_polygon(index: NuScenesIndex, tmp_path: Path) -> None:
    (tmp_path / "regions.yaml").write_text(
        "all: [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]\nnowhere: [[9e5, 9e5], [9.1e5, 9e5], [9e5, 9.1e5]]\n"
    )
    text = run_score(config_of(index, tmp_path, within=math.inf, regions=tmp_path / "regions.yaml"))
    report = json.loads((tmp_path / "score" / REPORT).read_text())["regions"]
    assert report["all"]["mean_ap"] == pytest.approx(1.0)
    assert report["nowhere"] == {**report["nowhere"], "boxes": {}, "nds": None, "mean_ap": None}
    assert "nowhere                        0       -       -" in text


def test_bad_input_is_one_clear_line(index: NuScenesIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bands must be rising distances"):
        distance_bands((0.0, 20.0, 10.0))
    (tmp_path / "bad.yaml").write_text("line: [[0, 0], [1, 1]]")
    with pytest.raises(ValueError, match=r"line must be at least three corners"):
        regions_of(tmp_path / "bad.yaml")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a nuScenes results file"):
        run_score(ScoreConfig(results=tmp_path / "results.json", root=index.root, version=index.version, split=SPLIT))


def test_a_report_tells_of_frames_curves_and_matches(index: NuScenesIndex, tmp_path: Path) -> None:
    run_score(config_of(index, tmp_path, within=15.0, bands=(0.0, 15.0)))
    report = json.loads((tmp_path / "score" / REPORT).read_text())
    frames = report["frames"]
    assert frames["stamp_us"] == sorted(frames["stamp_us"])
    for name, total in report["bands"]["0 to 15 m"]["boxes"].items():
        counts = report["frame_counts"]
        assert sum(counts["found"].get(name, [])) == total
        assert sum(counts["missed"].get(name, [])) == report["bands"]["15 m and more"]["boxes"].get(name, 0)
        assert name not in counts["false"]
        assert report["curves"]["bands"]["0 to 15 m"][name]["2"]["precision"] == [1.0] * 101
    far = report["bands"]["15 m and more"]["boxes"]
    for name, content in report["matches"]["bands"]["15 m and more"].items():
        matches = ClassMatches.unpacked(content)
        assert (matches.num_truth, len(matches.score)) == (far[name], 0)
