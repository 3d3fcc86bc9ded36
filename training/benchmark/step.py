"""One training step of a configuration, forward, losses and backward: parameters, losses, memory and time."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.device import device_from
from training.cli.settings import settings_from, words_of
from training.data.index.load import DataConfig
from training.data.sample import collate
from training.run.config import TrainConfig
from training.run.cost import MEBIBYTE, peak_memory
from training.run.data import train_dataset
from training.run.fit import build_module

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What `bevdistill bench step` measures."""

    training: Path  # configuration file of a training run
    settings: dict[str, Any] = field(default_factory=dict)  # in the place of that file's, by name
    data: DataConfig | None = None  # in the place of that run's data
    precision: str = ""  # 32-true, bf16-mixed or 16-mixed; empty takes that of the run
    recompute_activations: bool = False  # compute activations twice instead of keeping them
    batch_size: int = 1  # samples of the step
    warm_up: int = 1  # steps that are not timed
    steps: int = 1  # timed steps
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    threads: int = 0  # of torch on the CPU; 0 keeps torch's own choice

    def __post_init__(self) -> None:
        if self.precision and self.precision not in AUTOCAST:
            raise ValueError(f"precision must be one of {', '.join(AUTOCAST)}, but is {self.precision!r}")
        if min(self.batch_size, self.steps) < 1 or min(self.threads, self.warm_up) < 0:
            raise ValueError("batch_size and steps must be at least 1, threads and warm_up at least 0")


def run_step(config: StepConfig) -> str:
    """Measure; returns the table.

    Raises:
        ValueError: The configuration, the data or the device is not there.
        FloatingPointError: A loss or a gradient is not finite.
    """
    device = device_from(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    training = settings_from(TrainConfig, [f"--config={config.training}", *words_of(config.settings)])
    precision = config.precision or training.run.precision
    training = replace(
        training,
        data=config.data or training.data,
        run=replace(
            training.run,
            recompute_activations=config.recompute_activations or training.run.recompute_activations,
        ),
    )
    torch.manual_seed(training.optim.seed)
    module, dataset = build_module(training).train().to(device), train_dataset(training)
    batch = collate([dataset[item % len(dataset)] for item in range(config.batch_size)]).to(device)

    def step(number: int) -> Mapping[str, Tensor]:
        module.zero_grad()
        with torch.autocast(device.type, dtype=AUTOCAST[precision], enabled=AUTOCAST[precision] is not None):
            losses, total = module.objective(batch, number)
        total.backward()
        return {name: value.detach() for name, value in {**losses, "total": total}.items()}

    with peak_memory(device) as peak:
        losses, seconds = _timed(step, config, device)
    _check_finite(losses, module)
    setting = f"{device}, {torch.get_num_threads()} threads, {precision}"
    if training.run.recompute_activations:
        setting += ", activations recomputed"
    rows = [
        (f"one training step of {config.training.stem}, batch {config.batch_size}", f"({setting})"),
        ("parameters, trained / all", "{:.1f} M / {:.1f} M".format(*_millions(module.model))),
        ("time, forward and backward", f"{statistics.median(seconds):.3g} s"),
        (
            "peak memory",
            f"{peak.total / MEBIBYTE / 1024:.1f} GiB, {peak.above / MEBIBYTE / 1024:.1f} GiB of it the step's",
        ),
        *((f"loss {name}", f"{float(value):.4f}") for name, value in losses.items()),
    ]
    return aligned(rows, left=(0, 1))


def _timed(
    step: Callable[[int], Mapping[str, Tensor]], config: StepConfig, device: torch.device
) -> tuple[Mapping[str, Tensor], list[float]]:
    """Losses of the last step, and seconds of each after the warm-up."""
    seconds = []
    for number in range(1, config.warm_up + config.steps + 1):
        started = time.perf_counter()
        losses = step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return losses, seconds[config.warm_up :]


def _check_finite(losses: Mapping[str, Tensor], module: nn.Module) -> None:
    wrong = [name for name, value in losses.items() if not torch.isfinite(value)]
    wrong += [name for name, entry in module.named_parameters() if entry.grad is not None and not _finite(entry.grad)]
    if wrong:
        raise FloatingPointError(f"not finite: {', '.join(wrong[:5])}")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _millions(model: nn.Module) -> tuple[float, float]:
    """Parameters that are trained, and all, in millions."""
    counts = [(entry.numel(), entry.requires_grad) for entry in model.parameters()]
    return sum(count for count, trained in counts if trained) / 1e6, sum(count for count, _ in counts) / 1e6
