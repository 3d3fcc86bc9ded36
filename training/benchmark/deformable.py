"""Deformable sampling in plain torch against mmcv's own plain-torch version, in turn in one run."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.model.deformable import deformable_sample
from training.run.cost import MEBIBYTE, kept_by_autograd, peak_memory

HEADS, HEAD_CHANNELS = 8, 32
IMAGE_LEVELS = ((116, 200), (58, 100), (29, 50), (15, 25))  # of 1600x928 images, strides 8 to 64
BEV_LEVELS = ((128, 128), (64, 64), (32, 32), (16, 16))

Sampler = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class DeformableConfig:
    """What `bevdistill bench deformable` measures."""

    repeats: int = 5  # timed calls of each version and size, in turn
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    threads: int = 0  # of torch on the CPU; 0 keeps torch's own choice
    scale: float = 1.0  # share of the queries that is kept, to try it out

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.threads < 0:
            raise ValueError(
                f"repeats must be at least 1 and threads at least 0, but they are {self.repeats} and {self.threads}"
            )
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale must be above 0 and at most 1, but is {self.scale}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One use of deformable sampling at the paper's scale."""

    name: str
    levels: tuple[tuple[int, int], ...]  # rows and columns
    queries: int
    points: int  # per level


PROBLEMS: tuple[Problem, ...] = (
    Problem(name="images -> BEV, one camera, all cells", levels=IMAGE_LEVELS, queries=128 * 128, points=8),
    Problem(name="BEV -> BEV, encoder", levels=BEV_LEVELS[:1], queries=128 * 128, points=4),
    Problem(name="BEV -> queries, student's decoder", levels=BEV_LEVELS[:1], queries=900, points=4),
    Problem(name="BEV -> queries, teacher's decoder", levels=BEV_LEVELS, queries=300, points=4),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one version takes."""

    forward: float  # [s] median
    both: float  # [s] median, forward and backward
    kept: int  # [bytes] by autograd between the two
    peak: int  # [bytes] in use at once during both, above the inputs


def run_deformable(config: DeformableConfig) -> str:
    """Measure; returns the table.

    Raises:
        ValueError: mmcv is not installed, or there is no such device.
    """
    theirs = mmcv_sampler()
    device = device_from(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    head = (
        f"deformable sampling, ours / mmcv's in plain torch ({device}, {torch.get_num_threads()} threads, "
        f"median of {config.repeats})"
    )
    columns = ("", "forward [ms]", "forward and backward [ms]", "kept [MiB]", "peak [MiB]", "largest difference")
    rows = [[problem.name, *_cells(problem, theirs, config, device)] for problem in PROBLEMS]
    return f"{head}\n{aligned([columns, *rows])}"


def mmcv_sampler() -> Sampler:
    """mmcv's `multi_scale_deformable_attn_pytorch`, which takes tokens, as a function like `deformable_sample`.

    Raises:
        ValueError: mmcv is not installed.
    """
    try:
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
    except ImportError as error:
        raise ValueError(f"this compares with mmcv, which can't be imported ({error}): make setup-mmdet3d") from error

    def sample(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
        heads = locations.shape[1]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1).unflatten(2, (heads, -1))
        shapes = torch.tensor([level.shape[-2:] for level in levels])
        output: Tensor = multi_scale_deformable_attn_pytorch(
            tokens, shapes, locations.movedim(-1, 1), weights.movedim(-1, 1)
        )
        return output

    return sample


def inputs_of(problem: Problem, scale: float, device: torch.device) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random maps, locations (a tenth of them outside) and weights, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    queries = max(1, round(problem.queries * scale))
    shape = (1, HEADS, len(problem.levels), problem.points)
    levels = [torch.randn(1, HEADS * HEAD_CHANNELS, *size, generator=generator) for size in problem.levels]
    locations = torch.rand(*shape, 2, queries, generator=generator) * 1.1 - 0.05
    weights = torch.randn(*shape, queries, generator=generator).flatten(2, 3).softmax(2).unflatten(2, shape[2:])
    *moved, places, shares = (entry.to(device).requires_grad_() for entry in (*levels, locations, weights))
    return moved, places, shares


def compare(problem: Problem, theirs: Sampler, config: DeformableConfig, device: torch.device) -> tuple[Cost, Cost]:
    """Costs of ours and of the other version."""
    levels, locations, weights = inputs_of(problem, config.scale, device)
    samplers = (deformable_sample, theirs)
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(config.repeats + 1):
        for version, sampler in enumerate(samplers):
            times[version].append(_timed(sampler, levels, locations, weights))
    costs = []
    for version, sampler in enumerate(samplers):
        forward, both = zip(*times[version][1:], strict=True)
        with kept_by_autograd() as kept:
            sampler(levels, locations, weights)
        with peak_memory(device) as peak:
            _timed(sampler, levels, locations, weights)
        costs.append(
            Cost(
                forward=statistics.median(forward),
                both=statistics.median(both),
                kept=sum(kept.values()),
                peak=peak.above,
            )
        )
    return costs[0], costs[1]


def largest_difference(problem: Problem, theirs: Sampler, config: DeformableConfig, device: torch.device) -> float:
    """Between the outputs and between the gradients, each relative to its largest entry."""
    found: list[list[Tensor]] = []
    for sampler in (deformable_sample, theirs):
        levels, locations, weights = inputs_of(problem, config.scale, device)
        output = sampler(levels, locations, weights)
        output.square().sum().backward()
        gradients = [entry.grad for entry in (*levels, locations, weights)]
        found.append([output.detach(), *(entry for entry in gradients if entry is not None)])
    pairs = zip(*found, strict=True)
    return max(float((ours - other).abs().max() / ours.abs().max()) for ours, other in pairs)


def _timed(sampler: Sampler, levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> tuple[float, float]:
    """Seconds of the forward pass, and of forward and backward."""
    for entry in (*levels, locations, weights):
        entry.grad = None
    started = time.perf_counter()
    output = sampler(levels, locations, weights)
    _synchronise(output)
    between = time.perf_counter()
    output.sum().backward()
    _synchronise(output)
    return between - started, time.perf_counter() - started


def _synchronise(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _cells(problem: Problem, theirs: Sampler, config: DeformableConfig, device: torch.device) -> list[str]:
    ours, other = compare(problem, theirs, config, device)
    pairs: list[tuple[Any, Any, float]] = [
        (ours.forward, other.forward, 1e-3),
        (ours.both, other.both, 1e-3),
        (ours.kept, other.kept, MEBIBYTE),
        (ours.peak, other.peak, MEBIBYTE),
    ]
    cells = [f"{one / unit:.1f} / {two / unit:.1f} = {one / max(two, 1e-9):.2f}" for one, two, unit in pairs]
    return [*cells, f"{largest_difference(problem, theirs, config, device):.1e}"]
