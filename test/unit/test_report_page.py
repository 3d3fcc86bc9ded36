"""`bevdistill report`: the page of a report."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.core.records import Detections
from training.bag.write_bag import write_bag
from training.cli.commands import main
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.evaluate.results import results_from
from training.report.run import ReportConfig, run_report
from training.report.sections import worst_frames
from training.score.read import read_report
from training.score.run import ScoreConfig, run_score

SPLIT = "tiny_train"


class Elements(HTMLParser):
    """Attributes of the elements of a page, by tag; fails where tags do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))

    def all(self, tag: str, attribute: str) -> list[str]:
        return [str(entry[attribute]) for entry in self.found.get(tag, []) if entry.get(attribute)]


@pytest.fixture(scope="module")
def world(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny database later than 1970, so that bags can be written of it."""
    database = type(tiny_world)(tmp_path_factory.mktemp("later"), start=1000.0)
    database.write()
    return database


@pytest.fixture(scope="module")
def scored(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report: ground truth as detections, nothing found in the last frame."""
    index = load_index(DataConfig(root=world.root, version=world.version, num_sweeps=0))
    found = {}
    for number in map(int, index.samples_of(SPLIT)):
        boxes = torch.tensor(index.boxes[index.boxes_of(number)]).nan_to_num()
        found[index.token(number)] = Detections(
            stamp_ns=int(index.stamps_ns[number]),
            boxes=boxes,
            scores=torch.linspace(0.9, 0.5, len(boxes)),
            labels=torch.tensor(index.labels[index.boxes_of(number)]),
        )
    last = index.token(int(index.samples_of(SPLIT)[-1]))
    found[last] = found[last].above(2.0)
    folder = tmp_path_factory.mktemp("scored")
    (folder / "in.json").write_text(json.dumps(results_from(found, index.poses_of(SPLIT))))
    run_score(
        ScoreConfig(
            results=folder / "in.json", root=index.root, version=index.version, split=SPLIT, output=folder, scenes=True
        )
    )
    return folder / "report.json"


def test_a_page_opens_offline_with_pictures_and_film(scored: Path, world: Any, tmp_path: Path) -> None:
    gate = {"gate": "gate.yaml", "passed": False, "rows": []}
    row = {"title": "AP, <car>", "verdict": "fail", "passes": False, "value": 0.1, "limit": "at least 0.5"}
    gate["rows"] = [{**row, "baseline": None, "worse": None, "interval": None, "note": ""}]
    (tmp_path / "gate.json").write_text(json.dumps(gate))
    stage = {"p50": 20.0, "p95": 30.0, "max": 90.0, "count": 100}
    replay = {"latency_ms": {"inference": stage}, "sets_sent": 100, "sets_lost": 2, "drops": {"spread too large": 2}}
    (tmp_path / "replay.json").write_text(json.dumps(replay))
    nusc = open_tables(world.root, world.version)
    bag = write_bag(nusc, "scene-drive", tmp_path / "bag", cameras=("CAM_FRONT", "CAM_BACK"), progress=False)
    options = {"report": scored, "output": tmp_path / "page", "frames": 1, "progress": "false", "bags": f"[{bag}]"}
    options |= {"gate": tmp_path / "gate.json", "replay": tmp_path / "replay.json"}
    assert main(["report", *(f"--{name}={value}" for name, value in options.items())]) == 0
    text = (tmp_path / "page" / "report.html").read_text()
    assert not re.search(r"https?://", text)
    elements = Elements(text)
    files = [*elements.all("img", "src"), *elements.all("video", "src"), *elements.all("video", "poster")]
    assert {Path(file).suffix for file in files} == {".jpg", ".png", ".webm"}
    assert all((tmp_path / "page" / file).stat().st_size > 500 for file in files)
    assert set(elements.all("nav", "aria-label")) == {"sections"}
    anchors = [link.removeprefix("#") for link in elements.all("a", "href") if link.startswith("#")]
    assert set(anchors) <= {*elements.all("section", "id"), "content"}
    for words in ("missed", "AP, &lt;car&gt;", "spread too large", "precision over recall of", "inference"):
        assert words in text
    film = cv2.VideoCapture(str(tmp_path / "page" / "media" / "film.webm"))
    frames = []
    while (picture := film.read()[1]) is not None:
        frames.append(picture)
    assert len(frames) == 3
    assert np.abs(frames[0].astype(float) - frames[2]).mean() > 0.1
    commands = re.findall(r"ros2 bag play (\S+) --start-offset ([\d.]+)", text)
    assert [path for path, _ in commands] == [str(bag)]
    assert float(commands[0][1]) == 0.0  # the frame is less than the two seconds of lead after the start


def test_the_worst_frame_comes_first(scored: Path) -> None:
    report = read_report(scored)
    (worst,) = worst_frames(report, 1)
    missed = report.content["frame_counts"]["missed"]
    assert sum(values[worst] for values in missed.values()) > 0
    assert all(not values[other] for values in missed.values() for other in range(3) if other != worst)


def test_a_page_without_data_set_or_ground_truth(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data set at /nowhere for pictures; name it with --root, or set"):
        run_report(ReportConfig(report=scored, root=Path("/nowhere"), output=tmp_path))
    content = json.loads(scored.read_text())
    bare = {key: content[key] for key in ("schema", "source", "results", "frames", "detections")}
    (tmp_path / "report.json").write_text(json.dumps(bare))
    config = ReportConfig(report=tmp_path / "report.json", pictures=False, progress=False)
    run_report(config)
    text = (tmp_path / "report.html").read_text()
    assert "There was no ground truth" in text
    assert "<img" not in text
    with pytest.raises(ValueError, match="there is no scene 'scene-x'; there are scene-drive"):
        run_report(replace(config, pictures=True, film="scene-x"))
