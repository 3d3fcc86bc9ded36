"""A vehicle's own cameras, from the rig file to the score of a live replay: three names, two sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from training.data.index.load import DataConfig, load_index
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import training_rig
from training.replay.config import ReplayConfig
from training.replay.run import run_replay
from training.synth.config import SynthConfig
from training.synth.writer import write_world

pytestmark = pytest.mark.slow
CAMERAS = ("front", "left", "right")
TINY = StudentConfig(
    grid=BevGrid(rows=8, cols=8),
    cameras=CAMERAS,
    image_height=32,
    image_width=96,
    backbone="resnet18",
    backbone_width=4,
    backbone_norm="batch",
    frozen_stages=0,
    num_levels=2,
    embed_dim=16,
    num_heads=2,
    feedforward_dim=16,
    encoder_layers=1,
    num_heights=2,
    points_per_height=1,
    decoder_layers=1,
    num_queries=20,
)


def own_rig() -> VehicleRig:
    """A 4:3 camera ahead, a portrait one on the left, another 4:3 one on the right."""
    sizes = ((54, 72), (96, 72), (54, 72))
    intrinsics = [[[50.0, 0.0, w / 2 - 0.5], [0.0, 50.0, h / 2 - 0.5], [0.0, 0.0, 1.0]] for h, w in sizes]
    poses = np.tile(np.eye(4), (3, 1, 1))
    for pose, yaw in zip(poses, np.radians([0.0, 90.0, -90.0]), strict=True):
        pose[:3, :3] = [[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]]
        pose[:3, 3] = (1.5, 0.0, 1.5)
    return VehicleRig(
        names=CAMERAS,
        intrinsics=torch.tensor(intrinsics, dtype=torch.float64),
        ego_from_camera=torch.from_numpy(poses),
        image_sizes=sizes,
    )


def test_live_score_is_the_offline_one(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(own_rig().to_dict()))
    world = SynthConfig(
        root=tmp_path / "world",
        rig=tmp_path / "rig.yaml",
        num_train_scenes=0,
        num_tune_scenes=0,
        num_val_scenes=1,
        frames_per_scene=4,
        lidar_columns=120,
        num_workers=1,
    )
    write_world(world, progress=False)
    data = DataConfig(root=world.root, version=world.version, val_split="synth_val", num_sweeps=0)
    torch.manual_seed(2)
    rig = training_rig(load_index(data), "synth_val", TINY)
    save_bundle(tmp_path / "bundle", BevFormer(TINY), name="tiny", version="1", rig=rig, provenance={})
    offline = evaluate(
        EvaluateConfig(
            source=str(tmp_path / "bundle"), data=data, output=str(tmp_path / "offline"), num_workers=0, progress=False
        )
    )
    report = run_replay(
        ReplayConfig(
            bundle=tmp_path / "bundle",
            output=tmp_path / "replay",
            root=world.root,
            version=world.version,
            split="synth_val",
            reference_camera="front",
            pace="step",
            device="cpu",
            parameters={"num_threads": 1},
            progress=False,
        )
    )
    assert report.sets_lost == 0
    assert report.metrics is not None
    assert report.metrics.nds == pytest.approx(offline.nds, abs=0.005)
    assert report.metrics.mean_ap == pytest.approx(offline.mean_ap, abs=0.005)
