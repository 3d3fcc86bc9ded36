"""The reference of a bundle: two frames in a row with torch's answers, which every other engine must reproduce.

The frames are made of stored blocks of noise, whose edges show wrong sampling, in the rig of the training. In the
second one the vehicle has moved and turned, and the last camera is missing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.engine_choice import HALF_PRECISIONS, Precision
from bevdistill_ros.inference.engine_files import Tolerance
from bevdistill_ros.inference.engines.network import EngineError, Network
from bevdistill_ros.inference.engines.torch_engine import TorchNetwork
from bevdistill_ros.model.build import finder_of
from bevdistill_ros.model.geometry import Capacity, Geometry
from bevdistill_ros.model.records import Answer, BevMemory, CameraInput
from bevdistill_ros.model.student import CameraStudent, StudentSettings

REFERENCE_FILE = "reference.safetensors"
NUM_FRAMES = 2
_BLOCK = 8  # [px] at most, of equal colour
_KEPT_BEV = 65_536  # values of a BEV that are compared
_MOTION = (1.5, 0.2, math.radians(3.0))  # x, y [m] and yaw [rad] between the frames
_PERCENTILE = 0.98  # of the queries: two that compete for the last place, or have equal scores, may be exchanged
_HALF_PERCENTILE = 0.5  # in half precision, others win among weak peaks of a heatmap
_MARGIN = 0.1  # of capacity beyond what the rig of the training needs
_STEP = 64  # pillars, of capacity


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a bundle stores."""

    blocks: Tensor  # (2, N, 3, h, w) uint8, the images in blocks
    answers: tuple[Answer, ...]  # of torch, with the BEV thinned out, see `thinned`


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far an engine's answers lie from the reference; the meaning of the values is that of `Tolerance`."""

    bev_max: float
    bev_rms: float
    queries: float

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.1g}" for name, value in vars(self).items())

    def exceeds(self, tolerance: Tolerance) -> list[str]:
        """What is beyond the tolerance, with figures; empty if nothing is. A value that is not finite is beyond it."""
        return [
            f"{name} {value:.2g} (allowed {getattr(tolerance, name):.2g})"
            for name, value in vars(self).items()
            if not value <= getattr(tolerance, name)
        ]


def make_blocks(config: StudentSettings) -> Tensor:
    """Blocks of noise for the images of two frames: (2, N, 3, h, w) uint8."""
    block = _block_size(config)
    shape = (NUM_FRAMES, len(config.cameras), 3, config.image_height // block, config.image_width // block)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def reference_input(config: StudentSettings, rig: CameraRig) -> tuple[Tensor, Geometry, Tensor | None]:
    """Images, geometry and previous BEV of the second frame, as an example to export a network with."""
    finder, least = finder_of(config), capacity_of(config, rig)
    cameras = _camera_input(config, rig, _images_from(make_blocks(config), config)[1], 1)
    if not config.temporal:
        return cameras.images, finder.of(cameras, least=least), None
    bev = torch.zeros(1, config.embed_dim, config.bev_grid.rows, config.bev_grid.cols)
    pose = torch.eye(4, dtype=torch.float64).unsqueeze(0)
    previous = BevMemory(bev=bev, global_from_ego=pose, present=torch.ones(1, dtype=torch.bool))
    return cameras.images, finder.of(cameras, previous, least), bev


def torch_reference(student: CameraStudent, rig: CameraRig) -> Reference:
    """What torch answers on the CPU in float32; the student is moved there."""
    blocks = make_blocks(student.config)
    network = TorchNetwork(student, torch.device("cpu"), "fp32")
    return Reference(blocks=blocks, answers=tuple(map(thinned, answers_of(network, blocks, student.config, rig))))


def capacity_of(config: StudentSettings, rig: CameraRig) -> Capacity:
    """Padded sizes for a rig, with some room for cameras that sit a little differently."""
    visible = finder_of(config).of(_camera_input(config, rig, images=None)).visible
    pillars = math.ceil(visible.index.shape[-1] * (1 + _MARGIN) / _STEP) * _STEP
    return Capacity(
        pillars=min(pillars, config.bev_grid.rows * config.bev_grid.cols),
        cameras=max(visible.slots.shape[-1], min(2, len(rig.names))),
    )


def answers_of(network: Network, blocks: Tensor, config: StudentSettings, rig: CameraRig) -> tuple[Answer, ...]:
    """Answers of a network to the two frames; a temporal one is given its own first BEV with the second frame."""
    finder, least = finder_of(config), capacity_of(config, rig)
    answers: list[Answer] = []
    previous: BevMemory | None = None
    for number, images in enumerate(_images_from(blocks, config)):
        cameras = _camera_input(config, rig, images, number)
        answer = network(images, finder.of(cameras, previous, least), previous.bev if previous else None)
        answers.append(Answer(logits=answer.logits.cpu(), codes=answer.codes.cpu(), bev=answer.bev.cpu()))
        if config.temporal:
            present = torch.ones(1, dtype=torch.bool)
            previous = BevMemory(bev=answer.bev, global_from_ego=cameras.global_from_ego, present=present)
    return tuple(answers)


def deviation_of(network: Network, reference: Reference, config: StudentSettings, rig: CameraRig) -> Deviation:
    """How far a network's answers to the reference's frames lie from its answers, see `answers_of`."""
    found = answers_of(network, reference.blocks, config, rig)
    return deviation(tuple(map(thinned, found)), reference.answers, network.precision)


def thinned(answer: Answer) -> Answer:
    """An answer with only so many values of the BEV as are compared."""
    step = max(1, answer.bev.numel() // _KEPT_BEV)
    return Answer(logits=answer.logits, codes=answer.codes, bev=answer.bev.flatten()[::step].clone())


def deviation(found: tuple[Answer, ...], expected: tuple[Answer, ...], precision: Precision = "fp32") -> Deviation:
    """The largest deviation of thinned answers, of what was computed in a precision."""
    percentile = _HALF_PERCENTILE if precision in HALF_PRECISIONS else _PERCENTILE
    pairs = list(zip(found, expected, strict=True))
    scale = [_rms(reference.bev) for _, reference in pairs]
    bev = [(answer.bev - reference.bev) / size for (answer, reference), size in zip(pairs, scale, strict=True)]
    return Deviation(
        bev_max=max(float(difference.abs().max()) for difference in bev),
        bev_rms=max(_rms(difference) for difference in bev),
        queries=max(_query_distance(answer, reference, percentile) for answer, reference in pairs),
    )


def save_reference(path: Path, reference: Reference) -> None:
    """Write a reference as safetensors."""
    tensors = {"blocks": reference.blocks}
    for number, answer in enumerate(reference.answers):
        tensors |= {f"{name}.{number}": value.contiguous() for name, value in vars(answer).items()}
    save_file(tensors, path)


def load_reference(path: Path, config: StudentSettings) -> Reference:
    """Read a reference.

    Raises:
        EngineError: It is not one, or not of this student.
    """
    try:
        tensors = load_file(path)
        blocks, answers = tensors["blocks"], tuple(_answer_from(tensors, number) for number in range(NUM_FRAMES))
    except (SafetensorError, KeyError) as error:
        raise EngineError(f"'{path.name}' is not a reference of engines: {error}") from error
    if blocks.shape != make_blocks(config).shape or blocks.dtype != torch.uint8:
        raise EngineError(f"'{path.name}' is of another student: its images are {tuple(blocks.shape)}")
    return Reference(blocks=blocks, answers=answers)


def _answer_from(tensors: dict[str, Tensor], number: int) -> Answer:
    return Answer(**{name: tensors[f"{name}.{number}"] for name in ("logits", "codes", "bev")})


def _query_distance(found: Answer, expected: Answer, percentile: float) -> float:
    """How far queries lie from their nearest counterpart, whatever their order, in logits and metres."""
    rows = [torch.cat([answer.logits[-1, 0], answer.codes[-1, 0]], dim=-1) for answer in (found, expected)]
    if rows[0].shape != rows[1].shape:
        return math.inf
    distance = torch.cdist(rows[0], rows[1], p=math.inf)
    nearest = torch.stack([distance.amin(dim=0), distance.amin(dim=1)]).amax(dim=0)
    return float(nearest.quantile(percentile))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _block_size(config: StudentSettings) -> int:
    return math.gcd(_BLOCK, config.image_height, config.image_width)


def _images_from(blocks: Tensor, config: StudentSettings) -> list[Tensor]:
    """Images (1, N, 3, H, W) of both frames."""
    block = _block_size(config)
    return [frame.repeat_interleave(block, dim=-2).repeat_interleave(block, dim=-1).unsqueeze(0) for frame in blocks]


def _camera_input(config: StudentSettings, rig: CameraRig, images: Tensor | None, number: int = 0) -> CameraInput:
    x, y, yaw = (number * value for value in _MOTION)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, :2] = torch.tensor([math.cos(yaw), -math.sin(yaw)])
    pose[1, :2] = torch.tensor([math.sin(yaw), math.cos(yaw)])
    pose[:2, 3] = torch.tensor([x, y])
    valid = torch.ones(1, len(rig.names), dtype=torch.bool)
    valid[0, -1] = number == 0
    return CameraInput(
        images=torch.zeros(1) if images is None else images,
        image_from_ego=rig.image_from_ego().float().unsqueeze(0),
        valid=valid,
        global_from_ego=pose.unsqueeze(0),
    )
