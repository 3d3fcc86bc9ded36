"""What distillation costs at inference: nothing, and here is the proof for two checkpoints."""

import time
from pathlib import Path

import torch

from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.model.records import CameraInput
from bevdistill_ros.model.student import CameraStudent
from training.weights.model import load_student


def graph_of(checkpoint: Path) -> dict[str, list[int]]:
    """Names and shapes of all tensors of the student that is exported from a checkpoint."""
    _, student = load_student(checkpoint)
    return {name: list(value.shape) for name, value in student.state_dict().items()}


def latency_ratio(first: Path, second: Path, *, rounds: int = 60) -> float:
    """CPU time of one student over that of another: the median ratio of frames that they run in turn on the CPU.

    Args:
        first: Checkpoint of a student.
        second: Checkpoint of another one of the same configuration.
        rounds: Frames of each.
    """
    students = [load_student(path)[1] for path in (first, second)]
    frame = ring_frame(students[0])
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(rounds + 1):
            # Who goes first changes, so that neither gains from a warm cache.
            for index in (0, 1) if turn % 2 else (1, 0):
                started = time.process_time()
                students[index](frame)
                times[index].append(time.process_time() - started)
    ratios = torch.tensor(times[0][1:]) / torch.tensor(times[1][1:])  # the first round warms up
    return float(ratios.median())


def ring_frame(student: CameraStudent) -> CameraInput:
    """A frame of noise from cameras all around the vehicle, 90 degrees wide."""
    config = student.config
    count = len(config.cameras)
    generator = torch.Generator().manual_seed(0)
    projections = []
    for index in range(count):
        angle = torch.tensor(2 * torch.pi * index / count)
        pose = torch.eye(4)
        pose[:3, :3] = torch.tensor(
            [[angle.sin(), 0.0, angle.cos()], [-angle.cos(), 0.0, angle.sin()], [0.0, -1.0, 0.0]]
        )
        pose[2, 3] = 1.5
        intrinsics = torch.eye(4)
        intrinsics[0, 0] = intrinsics[1, 1] = config.image_width / 2
        intrinsics[0, 2], intrinsics[1, 2] = (config.image_width - 1) / 2, (config.image_height - 1) / 2
        projections.append(intrinsics @ invert_rigid(pose))
    shape = (1, count, 3, config.image_height, config.image_width)
    return CameraInput(
        images=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        image_from_ego=torch.stack(projections)[None],
        valid=torch.ones(1, count, dtype=torch.bool),
        global_from_ego=torch.eye(4, dtype=torch.float64)[None],
    )
