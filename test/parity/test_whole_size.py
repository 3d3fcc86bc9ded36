"""A checkpoint of bevformer_tiny's real size, from the file to evaluation and to the live node."""

import json
from pathlib import Path

import pytest
import torch
from published import TINY

from bevdistill_ros.inference.bundle import load_bundle
from training.cli.commands import main

pytestmark = [pytest.mark.slow, pytest.mark.ros]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic world with the six cameras of nuScenes."""
    root = tmp_path_factory.mktemp("world") / "world"
    counts = [f"--num_{split}_scenes=1" for split in ("train", "tune", "val")]
    assert main(["synth", f"--root={root}", *counts, "--frames_per_scene=3", "--lidar_columns=180"]) == 0
    return root


@pytest.fixture(scope="module")
def bundle(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported by the command, of random weights under the public names."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save({"meta": {"epoch": 24}, "state_dict": TINY.state()}, folder / "bevformer_tiny_epoch_24.pth")
    words = [f"--checkpoint={folder / 'bevformer_tiny_epoch_24.pth'}", "--kind=bevformer_tiny"]
    words += [f"--root={world}", "--version=v1.0-synth", "--split=synth_val", f"--output={folder / 'bundle'}"]
    assert main(["import-weights", *words, "--engines=onnx"]) == 0
    return folder / "bundle"


def test_the_bundle_has_the_real_size(bundle: Path) -> None:
    student = load_bundle(bundle).student
    assert sum(parameter.numel() for parameter in student.parameters()) > 33e6
    config = student.config
    assert (config.image_height, config.image_width, len(config.cameras)) == (480, 800, 6)


def test_it_is_evaluated(bundle: Path, world: Path, tmp_path: Path) -> None:
    words = [f"--source={bundle}", f"--data.root={world}", "--data.version=v1.0-synth", "--split=synth_val"]
    assert main(["evaluate", *words, f"--output={tmp_path}", "--num_workers=0", "--progress=false"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert len(results) == 3
    assert all(len(boxes) > 0 for boxes in results.values())  # random weights are sure of something


def test_it_drives_the_live_node(bundle: Path, world: Path, tmp_path: Path) -> None:
    words = [f"--bundle={bundle}", f"--root={world}", "--version=v1.0-synth", "--split=synth_val", "--pace=step"]
    words += [f"--output={tmp_path / 'replay'}", "--answer_timeout_s=300", "--start_timeout_s=600", "--progress=false"]
    assert main(["replay", *words]) == 0
    report = json.loads((tmp_path / "replay" / "report.json").read_text())
    assert report["sets_processed"] == report["sets_sent"] == 3
    assert report["samples_unanswered"] == report["sets_lost"] == 0
    assert "NDS" in (tmp_path / "replay" / "report.md").read_text()
