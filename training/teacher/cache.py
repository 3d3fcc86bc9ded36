"""A frozen teacher that runs once a frame: what it says is kept on disk.

A student sees each frame many times, and the teacher says the same each time as long as nothing changes its points.
"""

import hashlib
import os
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction
from training.data.sample import Batch
from training.teacher.frozen import FrozenTeacher
from training.teacher.output import TeacherOutput


class CachedTeacher(FrozenTeacher):
    """A frozen teacher with a memory by sample token and points.

    Maps are kept in half precision, and returned as they were kept from the first time on, so that a run that finds
    them learns the same as one that made them.

    Args:
        teacher: Runs where the memory has nothing yet.
        folder: Of the memory, one file a frame; made when first needed.
        grid: Of the teacher's maps.
    """

    def __init__(self, teacher: FrozenTeacher, folder: Path, grid: BevGrid) -> None:
        super().__init__(teacher.module, channels=teacher.channels, needs_mounting=teacher.needs_mounting)
        self._folder, self._grid = folder, grid

    def of(self, batch: Batch) -> TeacherOutput:
        device = batch.ego_from_lidar.device
        kept = [self._kept(batch, item) for item in range(len(batch))]
        # Predictions have their layers first.
        joined = {
            name: torch.cat([values[name] for values in kept], dim=1 if name in _QUERIES else 0).to(device).float()
            for name in kept[0]
        }
        queries = {name: value for name, value in joined.items() if name in _QUERIES}
        return TeacherOutput(
            finest=joined["finest"],
            encoded=joined.get("encoded"),
            grid=self._grid,
            predictions=SetPrediction(**queries, heatmap=joined.get("heatmap")) if queries else None,
        )

    def _kept(self, batch: Batch, item: int) -> dict[str, Tensor]:
        """What the teacher says of one frame, from the memory or else for it."""
        path = self._folder / f"{batch.tokens[item]}-{_digest(batch, item)}.safetensors"
        if path.is_file():
            return load_file(path)
        chosen = slice(item, item + 1)
        tensors = _tensors_of(self(batch.points[chosen], batch.ego_from_lidar[chosen]))
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(tensors, partial)
        os.replace(partial, path)
        return tensors


def _digest(batch: Batch, item: int) -> str:
    """Of all that the teacher sees of a frame: data may be written anew, with the same tokens."""
    seen = (batch.points[item], batch.ego_from_lidar[item])
    return hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in seen)).hexdigest()[:16]


_QUERIES = ("logits", "codes", "features")
_MAPS = ("finest", "encoded", "heatmap")


def _tensors_of(output: TeacherOutput) -> dict[str, Tensor]:
    named: dict[str, Tensor | None] = {"finest": output.finest, "encoded": output.encoded}
    if output.predictions is not None:
        named |= {entry.name: getattr(output.predictions, entry.name) for entry in fields(output.predictions)}
    return {
        name: value.detach().to("cpu", torch.float16 if name in _MAPS else torch.float32).contiguous()
        for name, value in named.items()
        if value is not None
    }


def cache_folder(root: Path, checkpoint: Path, *facts: object) -> Path:
    """Where a teacher's memory is: another checkpoint, or another of the facts on which its points depend, another one.

    Args:
        root: Of all memories.
        checkpoint: Of the teacher.
        facts: Data set, number of sweeps and the like.
    """
    digest = hashlib.sha256(repr(tuple(map(str, facts))).encode())
    with checkpoint.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return root / digest.hexdigest()[:16]
