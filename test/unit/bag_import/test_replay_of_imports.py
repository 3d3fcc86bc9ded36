"""Bags of others are imported, replayed, and scored against what was imported of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from nuscenes import NuScenes
from other_layouts import (
    FIVE,
    autoware_bag,
    dataset_bridge_bag,
    five,
    five_camera_bag,
    nuscenes2bag_bag,
    rig_file,
)
from same_data import tiny_world
from tiny_student import tiny_config

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.model.bevformer import BevFormer
from training.bag_import.config import BagImportConfig
from training.bag_import.run import import_bags
from training.data.index.load import DataConfig, load_index
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import training_rig
from training.replay.config import ReplayConfig
from training.replay.run import run_replay

BAGS = {"nuscenes2bag": nuscenes2bag_bag, "ros2_dataset_bridge": dataset_bridge_bag, "autoware": autoware_bag,
        "five cameras": five_camera_bag}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "five cameras" else pytest.mark.slow) for name in BAGS]
)
def test_a_replay_scores_as_direct_evaluation(name: str, world: Path, bags: Path, tmp_path: Path) -> None:
    nusc = NuScenes(tiny_world().version, str(world), verbose=False)
    bag = BAGS[name](bags / "synth-0000", tmp_path / "bag")
    settings: dict[str, Any] = {"layout": name}
    cameras, parameters = NUSCENES_CAMERAS, {}
    if name == "five cameras":
        settings["layout"] = str(five(tmp_path / "topics.yaml"))
        settings["annotation_topic"] = "/annotations"
        cameras = tuple(f"OUR_{short.upper()}" for short in FIVE.values())
    if name == "nuscenes2bag":
        settings["rig"] = rig_file(nusc, tmp_path / "rig.yaml")
        parameters = {"rig_file": str(settings["rig"]), "intrinsics": "rig_file"}
    root = tmp_path / "set"
    config = BagImportConfig(
        bags=(bag,), root=root, frames="key", image_format="png", num_workers=1, progress=False, **settings
    )
    (result,) = import_bags(config)
    assert (result.error, result.key_frames) == ("", 3)
    data = DataConfig(root=root, version="v1.0-bags", val_split="bags_all", train_split="bags_all", num_sweeps=0)
    torch.manual_seed(0)
    student = tiny_config(cameras=cameras, temporal=False, num_queries=20)
    rig = training_rig(load_index(data), "bags_all", student)
    save_bundle(tmp_path / "bundle", BevFormer(student), name="tiny", version="1", rig=rig, provenance={})
    report = run_replay(
        ReplayConfig(
            bundle=tmp_path / "bundle",
            output=tmp_path / "replay",
            bags=(bag,),
            layout=settings["layout"],
            frames="all",
            mode="offline",
            root=root,
            version="v1.0-bags",
            split="bags_all",
            reference_camera=next(camera for camera in cameras if camera in ("CAM_FRONT", "OUR_WIDE")),
            parameters={"engine": "torch", "num_threads": 1, **parameters},
            device="cpu",
            progress=False,
        )
    )
    assert (report.samples, report.samples_unanswered) == (3, 0)
    direct = evaluate(
        EvaluateConfig(
            source=str(tmp_path / "bundle"), data=data, split="bags_all", output=str(tmp_path / "direct"), device="cpu",
            num_workers=0, progress=False,
        )
    )  # fmt: skip
    assert report.metrics is not None
    assert report.metrics.num_samples == 3
    assert report.metrics.nds == pytest.approx(direct.nds, abs=1e-3)
