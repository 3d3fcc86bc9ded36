"""Weights of a training run: what a checkpoint says of itself, and models read back from one.

A checkpoint is Lightning's, with the resolved configuration as JSON text in it; it is read with `weights_only=True`,
so nothing is unpickled. A safetensors file with the same text in its metadata serves as one too: small, for weights
that are shipped. With an exponential moving average, `state_dict` holds the averaged weights.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bevdistill_ros.core.files import atomic_file

CONFIG_KEY = "bevdistill_config"
MODEL_PREFIX = "model."


def config_text(config: Any) -> str:
    """JSON text of a configuration dataclass."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, default=str)  # str: paths


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Content of a checkpoint file.

    Raises:
        ValueError: The file is missing, damaged, or not a checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}; train one with 'bevdistill train' or correct the path")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    except Exception as error:  # torch raises many kinds for a damaged file, some with advice that would be unsafe
        raise ValueError(
            f"checkpoint {path} is damaged or no checkpoint ({type(error).__name__}); copy it again or retrain"
        ) from error
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of bevdistill: it has no configuration in it")
    _check_content(content, path)
    return content


def _check_content(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose configuration or weights are something else."""
    try:
        config = json.loads(content[CONFIG_KEY])
        parts = [config.get(name, {}) for name in ("data", "optim", "run", "student", "teacher", "distill")]
        fits = all(isinstance(part, dict) for part in parts) and isinstance(config["role"], str)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    state = content["state_dict"]
    if (
        not fits
        or not isinstance(state, dict)
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    ):
        raise ValueError(
            f"{path} is not a checkpoint of bevdistill: its configuration or its weights are something else"
        )


def step_of(content: Mapping[str, Any], path: Path) -> int:
    """Steps that the run of a checkpoint's content has done.

    Raises:
        ValueError: It does not hold a run that could be resumed, but weights alone.
    """
    step = content.get("global_step")
    parts = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
    if not isinstance(step, int) or step < 1 or not all(name in content for name in parts):
        raise ValueError(f"{path} holds no run to resume; set run.initial_weights to it to start from its weights")
    return step


def read_torch(path: Path) -> dict[str, Any]:
    """Content of a file of torch, onto the CPU; whatever would have to be unpickled by code is refused."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        weights = {f"{MODEL_PREFIX}{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {**(file.metadata() or {}), "state_dict": weights}


def read_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a training run, from a checkpoint's content, as plain dicts."""
    config: dict[str, Any] = json.loads(content[CONFIG_KEY])
    return config


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Model weights of a checkpoint by parameter name."""
    return weights_in(read_checkpoint(path))


def weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Model weights by parameter name, from a checkpoint's content; those of losses and distillers are left out."""
    state = content["state_dict"]
    return {name.removeprefix(MODEL_PREFIX): value for name, value in state.items() if name.startswith(MODEL_PREFIX)}


def shrink(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint's model and configuration as float16 safetensors, small enough to ship."""
    content = read_checkpoint(checkpoint)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in weights_in(content).items()
    }
    with atomic_file(output) as partial:
        save_file(weights, partial, metadata={CONFIG_KEY: content[CONFIG_KEY]})


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Fill a model with weights of the same architecture.

    Raises:
        ValueError: Tensors are missing, unknown, or of another shape; the line names the first of each kind.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    misshapen = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing (first: {missing[0]})")
    if unknown:
        problems.append(f"{len(unknown)} are unknown (first: {unknown[0]})")
    if misshapen:
        name = misshapen[0]
        shapes = f"{tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
        problems.append(f"{len(misshapen)} have another shape (first: {name}, {shapes})")
    if problems:
        raise ValueError(
            f"{source} is of another architecture: {'; '.join(problems)}; use the configuration it was trained with"
        )
    model.load_state_dict(weights)
