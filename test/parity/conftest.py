"""Data of the public BEVFormer code with random weights, beside the repository; its README explains each file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

UNIT_TOLERANCE = 1e-5  # of what is of unit size
METRE_TOLERANCE = 1e-4  # [m]


@pytest.fixture(scope="session")
def parity(shared_data: Path) -> Path:
    """The folder of the parity data."""
    folder = shared_data / "bevformer-parity"
    if not folder.is_dir():
        pytest.skip("needs the parity data in ../shared/data/bevformer-parity")
    return folder


class Piece:
    """One part of the public network: settings, weights, inputs and outputs by name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.settings: dict[str, Any] = json.loads((folder / "pieces.json").read_text())[name]["settings"]
        tensors = load_file(folder / "pieces" / f"{name}.safetensors")
        self.weights, self.inputs, self.outputs = (
            {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
            for part in ("weight.", "input.", "output.")
        )


@pytest.fixture
def piece(parity: Path) -> Callable[[str], Piece]:
    """Reads a piece by its name."""
    return lambda name: Piece(parity, name)


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference of two tensors of the same shape."""
    assert first.shape == second.shape, (first.shape, second.shape)
    return float((first.double() - second.double()).abs().max())


@pytest.fixture(autouse=True)
def _exact_arithmetic() -> Any:
    """No gradients, and the same threads for everybody."""
    with torch.no_grad():
        yield
