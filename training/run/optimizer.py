"""Parameter groups and the learning rate over the steps."""

import math
from typing import Any

import torch
from torch import nn

from training.run.config import OptimConfig


def parameter_groups(module: nn.Module, optim: OptimConfig, slow_prefix: str) -> list[dict[str, Any]]:
    """The student's image backbone at its own learning rate; no weight decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(slow_prefix), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": optim.learning_rate * (optim.backbone_factor if is_backbone else 1.0),
            "weight_decay": optim.weight_decay if decays else 0.0,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]


def build_schedule(optimizer: torch.optim.Optimizer, optim: OptimConfig) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate over the steps: linear warm-up, then cosine to a thousandth, one cycle, or constant."""
    if optim.schedule == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=optim.steps, pct_start=0.2)

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / max(optim.warmup_steps, 1))
        if optim.schedule == "constant":
            return warmup
        progress = min(1.0, max(0, step - optim.warmup_steps) / max(optim.steps - optim.warmup_steps, 1))
        return warmup * (1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
