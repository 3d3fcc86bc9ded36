"""Train a detector of mmdet3d on a data set of ours, as a teacher to learn from; needs `make setup-mmdet3d`.

    python scripts/train_mmdet3d.py config/mmdet3d/centerpoint_tiny.py --config config/train/teacher_tiny.yaml

Detectors of the field are trained by mmdet3d's own tools on its own data sets. This loop reads ours, with the data,
augmentation and optimiser of a teacher's training configuration. It writes last.pth, as mmdet3d does, to run.output.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from bevdistill_ros.core.boxes import transform_boxes
from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.cli.settings import settings_from
from training.data.sample import Batch, collate
from training.data.sampler import SeededDataset, StepBatchSampler
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.optimizer import build_schedule, parameter_groups
from training.teacher.mmdet3d import Mmdet3dTeacher, build_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig


def truth_for(teacher: Mmdet3dTeacher, batch: Batch) -> list[Any]:
    """The true boxes of each frame as mmdet3d's instances, in the sensor's frame."""
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    labels_of = torch.tensor([teacher.facts.class_names.index(name) for name in CLASS_NAMES])
    truth = []
    for boxes, labels, transform in zip(batch.boxes, batch.labels, invert_rigid(batch.ego_from_lidar), strict=True):
        moved = transform_boxes(transform, boxes.double()).float().nan_to_num()  # of unknown velocity: at rest
        placed = LiDARInstance3DBoxes(moved, box_dim=moved.shape[-1], origin=(0.5, 0.5, 0.5))
        truth.append(InstanceData(bboxes_3d=placed, labels_3d=labels_of[labels]))
    return truth


def loss_of(teacher: Mmdet3dTeacher, batch: Batch) -> Tensor:
    """The sum of the head's losses."""
    from mmdet3d.structures import Det3DDataSample

    samples = [Det3DDataSample(gt_instances_3d=instances) for instances in truth_for(teacher, batch)]
    losses = teacher.head.loss(teacher.maps(batch.points, invert_rigid(batch.ego_from_lidar)), samples)
    return torch.stack([value for name, value in losses.items() if "loss" in name]).sum()


def main(detector: str, *arguments: str) -> None:
    """Train the detector of a configuration of mmdet3d with the settings of our command line."""
    config = settings_from(TrainConfig, arguments)
    path = Path(config.run.output) / "last.pth"
    if path.exists():
        raise ValueError(f"{path} exists already; choose another run.output")
    torch.manual_seed(config.optim.seed)
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    teacher = build_mmdet3d_teacher(Mmdet3dConfig(config=detector), grid=config.teacher.grid).train()
    if teacher.facts.num_sweeps != config.data.num_sweeps:
        raise ValueError(f"{detector} takes {teacher.facts.num_sweeps} sweeps; set data.num_sweeps to that")
    dataset = train_dataset(config)
    sampler = StepBatchSampler(
        range(len(dataset)), batch_size=config.optim.batch_size, steps=config.optim.steps, seed=config.optim.seed
    )
    loader = DataLoader(
        SeededDataset(dataset), batch_sampler=sampler, collate_fn=collate, num_workers=config.run.num_workers
    )
    groups = parameter_groups(teacher, config.optim, "no parameter")
    optimizer = torch.optim.AdamW(groups, lr=config.optim.learning_rate, weight_decay=config.optim.weight_decay)
    schedule = build_schedule(optimizer, config.optim)
    bar = tqdm(loader, total=config.optim.steps, unit="step")
    for batch in bar:
        loss = loss_of(teacher, batch)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {loss.item()}; lower optim.learning_rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(teacher.parameters(), config.optim.clip_norm)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    meta = {"dataset_meta": {"classes": teacher.facts.class_names}}
    with atomic_file(path) as partial:
        torch.save({"meta": meta, "state_dict": teacher.detector.state_dict()}, partial)
    sys.stdout.write(f"checkpoint: {path}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: train_mmdet3d.py <configuration of mmdet3d> [--config FILE] [--key value ...]")
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"train_mmdet3d.py: {error}")
