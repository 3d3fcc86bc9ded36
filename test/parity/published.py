"""State dicts with the names and shapes of published BEVFormer checkpoints, and random numbers.

Written from the public code's modules, not from our map; `test_import.py` compares the names with the parity data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
HEIGHTS, POINTS_PER_HEIGHT, BEV_POINTS, CODES, CLASSES, EMBEDDED_LEVELS = 4, 2, 4, 10, 10, 4

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What fixes the shapes of a public checkpoint."""

    backbone: str = "resnet50"
    stem: int = 64
    stages: tuple[int, ...] = (4,)  # of the backbone, that the pyramid reads
    deformable: tuple[int, ...] = ()
    levels: int = 1
    rows: int = 50
    cols: int = 50
    channels: int = 256
    heads: int = 8
    hidden: int = 512
    encoder_layers: int = 3
    decoder_layers: int = 6
    queries: int = 900
    cameras: int = 6

    def shapes(self) -> dict[str, Shape]:
        """Every name and shape."""
        return dict(
            [
                *self._backbone(),
                *self._neck(),
                *self._head(),
                *self._transformer(),
            ]
        )

    def state(self, seed: int = 0) -> dict[str, Tensor]:
        """Random tensors, of a size that keeps activations about one."""
        generator = torch.Generator().manual_seed(seed)
        return {name: _tensor(name, shape, generator) for name, shape in self.shapes().items()}

    def _backbone(self) -> Iterator[tuple[str, Shape]]:
        yield "img_backbone.conv1.weight", (self.stem, 3, 7, 7)
        yield from _norm("img_backbone.bn1", self.stem)
        entering = self.stem
        for stage, count in enumerate(BLOCKS[self.backbone], start=1):
            width = self.stem * 2 ** (stage - 1)
            for block in range(count):
                name = f"img_backbone.layer{stage}.{block}"
                yield f"{name}.conv1.weight", (width, entering, 1, 1)
                yield from _norm(f"{name}.bn1", width)
                yield f"{name}.conv2.weight", (width, width, 3, 3)
                if stage in self.deformable:
                    yield f"{name}.conv2.conv_offset.weight", (27, width, 3, 3)
                    yield f"{name}.conv2.conv_offset.bias", (27,)
                yield from _norm(f"{name}.bn2", width)
                yield f"{name}.conv3.weight", (4 * width, width, 1, 1)
                yield from _norm(f"{name}.bn3", 4 * width)
                if not block:
                    yield f"{name}.downsample.0.weight", (4 * width, entering, 1, 1)
                    yield from _norm(f"{name}.downsample.1", 4 * width)
                entering = 4 * width

    def _neck(self) -> Iterator[tuple[str, Shape]]:
        for index, stage in enumerate(self.stages):
            yield from _layer(f"img_neck.lateral_convs.{index}.conv", self.channels, self.stem * 2 ** (stage + 1), 1, 1)
        for index in range(self.levels):
            yield from _layer(f"img_neck.fpn_convs.{index}.conv", self.channels, self.channels, 3, 3)

    def _head(self) -> Iterator[tuple[str, Shape]]:
        head, width = "pts_bbox_head.", self.channels
        yield f"{head}code_weights", (CODES,)
        yield f"{head}positional_encoding.row_embed.weight", (self.rows, width // 2)
        yield f"{head}positional_encoding.col_embed.weight", (self.cols, width // 2)
        yield f"{head}bev_embedding.weight", (self.rows * self.cols, width)
        yield f"{head}query_embedding.weight", (self.queries, 2 * width)
        for index in range(self.decoder_layers):
            for part in (0, 3):
                yield from _layer(f"{head}cls_branches.{index}.{part}", width, width)
                yield from _both(f"{head}cls_branches.{index}.{part + 1}", width)
            yield from _layer(f"{head}cls_branches.{index}.6", CLASSES, width)
            for part in (0, 2):
                yield from _layer(f"{head}reg_branches.{index}.{part}", width, width)
            yield from _layer(f"{head}reg_branches.{index}.4", CODES, width)

    def _transformer(self) -> Iterator[tuple[str, Shape]]:
        name, width = "pts_bbox_head.transformer.", self.channels
        yield f"{name}level_embeds", (EMBEDDED_LEVELS, width)
        yield f"{name}cams_embeds", (self.cameras, width)
        yield from _layer(f"{name}reference_points", 3, width)
        yield from _layer(f"{name}can_bus_mlp.0", width // 2, 18)
        yield from _layer(f"{name}can_bus_mlp.2", width, width // 2)
        yield from _both(f"{name}can_bus_mlp.norm", width)
        for index in range(self.encoder_layers):
            layer = f"{name}encoder.layers.{index}."
            yield from self._attention(f"{layer}attentions.0.", 2 * BEV_POINTS, entering=2 * width, output=True)
            points = self.levels * HEIGHTS * POINTS_PER_HEIGHT
            yield from self._attention(f"{layer}attentions.1.deformable_attention.", points, width, output=False)
            yield from _layer(f"{layer}attentions.1.output_proj", width, width)
            yield from self._rest(layer)
        for index in range(self.decoder_layers):
            layer = f"{name}decoder.layers.{index}."
            yield f"{layer}attentions.0.attn.in_proj_weight", (3 * width, width)
            yield f"{layer}attentions.0.attn.in_proj_bias", (3 * width,)
            yield from _layer(f"{layer}attentions.0.attn.out_proj", width, width)
            yield from self._attention(f"{layer}attentions.1.", BEV_POINTS, width, output=True)
            yield from self._rest(layer)

    def _attention(self, name: str, points: int, entering: int, output: bool) -> Iterator[tuple[str, Shape]]:
        yield from _layer(f"{name}sampling_offsets", 2 * self.heads * points, entering)
        yield from _layer(f"{name}attention_weights", self.heads * points, entering)
        yield from _layer(f"{name}value_proj", self.channels, self.channels)
        if output:
            yield from _layer(f"{name}output_proj", self.channels, self.channels)

    def _rest(self, name: str) -> Iterator[tuple[str, Shape]]:
        yield from _layer(f"{name}ffns.0.layers.0.0", self.hidden, self.channels)
        yield from _layer(f"{name}ffns.0.layers.1", self.channels, self.hidden)
        for index in range(3):
            yield from _both(f"{name}norms.{index}", self.channels)


TINY = Published()
SMALL = Published(backbone="resnet101", deformable=(3, 4), rows=150, cols=150)
BASE = Published(
    backbone="resnet101", deformable=(3, 4), stages=(2, 3, 4), levels=4, rows=200, cols=200, encoder_layers=6
)
DISTILL_R50 = Published(deformable=(3, 4), stages=(2, 3, 4), levels=4, rows=128, cols=128, encoder_layers=6)


def _layer(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _both(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _both(name, width)
    yield f"{name}.running_mean", (width,)
    yield f"{name}.running_var", (width,)
    yield f"{name}.num_batches_tracked", ()


def _tensor(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    values = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return 1 + 0.1 * values.abs()
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    entering = shape[1:].numel() if isinstance(shape, torch.Size) else torch.Size(shape[1:]).numel()
    return values * entering**-0.5
