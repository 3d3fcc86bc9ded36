"""What the image backbones share: stages at strides 4 to 32, parts that are not trained, recomputed activations."""

from collections.abc import Iterable, Sequence
from typing import Self

from torch import Tensor, nn

from bevdistill_ros.model.recompute import recomputed


class Backbone(nn.Module):
    """An image network without its classifier: a stem, then stages of strides 4, 8, 16 and 32.

    A subclass makes its layers and then calls `_freeze`.

    Args:
        stages: Stages whose output is returned, from 1 (stride 4) to 4 (stride 32), rising.
        channels: Channels of these stages.
    """

    def __init__(self, *, stages: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.stages, self.channels = tuple(stages), tuple(channels)
        self.recompute = False  # whether training saves memory by computing activations twice
        self._frozen: tuple[nn.Module, ...] = ()

    def stem(self, images: Tensor) -> Tensor:
        """What comes before the first stage, of normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def stem_layers(self) -> Iterable[nn.Module]:
        """Layers of the stem."""
        raise NotImplementedError

    def stage_blocks(self, stage: int) -> Iterable[nn.Module]:
        """Blocks of a stage, which run one after the other."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the stages, finest first, of normalised images (B, 3, H, W)."""
        x = self.stem(images)
        outputs = []
        for stage in range(1, self.stages[-1] + 1):
            for block in self.stage_blocks(stage):
                x = recomputed(block, x) if self.recompute else block(x)
            if stage in self.stages:
                outputs.append(x)
        return outputs

    def train(self, mode: bool = True) -> Self:
        """As for any module, except that what is frozen keeps its statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _freeze(self, num_stages: int, *, norms: bool) -> None:
        """Stop the training of the stem and of some stages, and of all batch norms where `norms` says so."""
        frozen: list[nn.Module] = []
        if num_stages:
            frozen += self.stem_layers()
            for stage in range(1, min(num_stages, self.stages[-1]) + 1):
                frozen += self.stage_blocks(stage)
        if norms:
            frozen += [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in frozen:
            module.requires_grad_(False)
        self._frozen = tuple(frozen)
        self.train()
