"""A frozen teacher that runs once per frame: its outputs are kept on disk.

A student sees each frame many times, and the teacher's outputs are the same each time as long as nothing changes its
points. Only what distillation reads is kept: the maps of the taps in use, the queries of the last layer, and the
heatmap that chose them. A damaged file is made again; where none can be written, the teacher runs again.
"""

import hashlib
import logging
import zlib
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction
from training.data.sample import Batch
from training.teacher.frozen import FrozenTeacher
from training.teacher.output import Tap, TeacherOutput

_CHECKSUM = "checksum"  # in a file's metadata

_LOG = logging.getLogger(__name__)


class CachedTeacher(FrozenTeacher):
    """A frozen teacher with a cache by sample token and points.

    Maps are kept in half precision, and returned as they were kept from the first time on, so that a run that finds
    them learns the same as one that made them.

    Args:
        teacher: Runs where the cache has nothing yet.
        folder: Of the cache, one file per frame; made when first needed.
        grid: Of the teacher's maps.
        taps: Which maps are kept.
    """

    def __init__(self, teacher: FrozenTeacher, folder: Path, grid: BevGrid, taps: Collection[Tap]) -> None:
        super().__init__(teacher.module, channels=teacher.channels, needs_mounting=teacher.needs_mounting)
        self._folder, self._grid, self._taps = folder, grid, frozenset(taps)
        self._is_full = False  # a frame could not be cached, which was reported

    def of(self, batch: Batch) -> TeacherOutput:
        device = batch.ego_from_lidar.device
        kept = [self._kept(batch, item) for item in range(len(batch))]
        # Predictions have their layers first.
        joined = {
            name: torch.cat([values[name] for values in kept], dim=1 if name in _QUERIES else 0).to(device).float()
            for name in kept[0]
        }
        queries = {name: value for name, value in joined.items() if name in (*_QUERIES, _HEATMAP)}
        return TeacherOutput(
            finest=joined.get("finest"),
            encoded=joined.get("encoded"),
            grid=self._grid,
            predictions=SetPrediction(**queries) if queries else None,
        )

    def _kept(self, batch: Batch, item: int) -> dict[str, Tensor]:
        """Outputs for one frame, from the cache or else computed and kept."""
        path = self._folder / f"{batch.tokens[item]}-{_digest(batch, item)}.safetensors"
        found = self._read(path) if path.is_file() else None
        if found is not None:
            return found
        chosen = slice(item, item + 1)
        tensors = _tensors_of(self(batch.points[chosen], batch.ego_from_lidar[chosen]), self._taps)
        try:
            with atomic_file(path) as partial:
                save_file(tensors, partial, metadata={_CHECKSUM: _checksum(tensors)})
        except OSError as error:
            if not self._is_full:
                _LOG.warning("the teacher runs again for frames that are not kept: %s", error)
            self._is_full = True
        return tensors

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        """Content of a file; None where it is damaged or of another grid."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                intact = (file.metadata() or {}).get(_CHECKSUM) == _checksum(tensors)
        except (SafetensorError, OSError, ValueError):
            intact = False
        cells = {tuple(tensors[name].shape[-2:]) for name in _MAPS if name in tensors} if intact else set()
        if intact and cells <= {(self._grid.rows, self._grid.cols)}:
            return tensors
        _LOG.warning("%s is damaged; the teacher runs again for its frame", path)
        return None


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and contents."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name}{tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return str(value)


def _digest(batch: Batch, item: int) -> str:
    """Of all inputs of a frame: data may be written again with the same tokens."""
    seen = (batch.points[item], batch.ego_from_lidar[item])
    return hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in seen)).hexdigest()[:16]


_FORMAT = "2"  # of the files; another one has a folder of its own
_QUERIES = ("logits", "codes", "features")
_HEATMAP = "heatmap"
_MAPS = ("finest", "encoded")


def _tensors_of(output: TeacherOutput, taps: Collection[Tap]) -> dict[str, Tensor]:
    maps = {"finest" if output.map_of(tap) is output.finest else "encoded": output.map_of(tap) for tap in taps}
    queries = {}
    if output.predictions is not None:
        queries = {name: getattr(output.predictions, name)[-1:] for name in _QUERIES}
        if output.predictions.heatmap is not None:
            queries[_HEATMAP] = output.predictions.heatmap
    return {
        **{name: value.detach().to("cpu", torch.float16).contiguous() for name, value in maps.items()},
        **{name: value.detach().to("cpu", torch.float32).contiguous() for name, value in queries.items()},
    }


def cache_folder(root: Path, checkpoint: Path, *facts: object) -> Path:
    """Where a teacher's cache is: one per checkpoint and per facts on which its points depend.

    Args:
        root: Of all caches.
        checkpoint: Of the teacher.
        facts: Data set, number of sweeps and the like.
    """
    digest = hashlib.sha256(repr((_FORMAT, *map(str, facts))).encode())
    with checkpoint.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return root / digest.hexdigest()[:16]
