"""Checkpoints that other projects wrote, read without running anything in them."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.weights.checkpoint import read_torch


class _Ignored:
    """A placeholder for what other projects pickle beside their weights; using it has no effect."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Numbers and arrays of NumPy and the loss histories of mmengine; nothing of them is imported, called or built.
_IGNORED_NAMES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how methods are pickled
    "__builtin__.getattr",
)


def read_foreign_checkpoint(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint of another project, with weights by name under `state_dict`; no code in it runs.

    Raises:
        ValueError: The file is missing, damaged, without weights, or holds objects that would have to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; correct the path")
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED_NAMES]):
            content = read_torch(path)
    except Exception as error:
        unknown = re.search(r"GLOBAL (\S+)", str(error))
        problem = f"holds objects of {unknown[1]}" if unknown else f"is damaged ({type(error).__name__})"
        raise ValueError(
            f"checkpoint {path} {problem}; save the weights alone, where you trust the file: "
            "torch.save({'state_dict': torch.load(path, weights_only=False)['state_dict']}, new_path)"
        ) from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds no weights under 'state_dict', where a checkpoint has them")
    return content
