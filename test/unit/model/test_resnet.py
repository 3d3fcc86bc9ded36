import pytest
import torch

from bevdistill_ros.model.resnet import ResNet


def trunk(name: str = "resnet18", stages: tuple[int, ...] = (1, 2, 3, 4), width: int = 8, **changes: object) -> ResNet:
    settings: dict[str, object] = {"frozen_stages": 0, "frozen_norm": False, **changes}
    return ResNet(name=name, width=width, stages=stages, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parameters"),
    # torchvision's published counts, less the classifier of 1000 classes: (512 or 2048) * 1000 + 1000.
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
        ("resnet101", 44_549_160 - 2_049_000),
    ],
)
def test_the_standard_networks_have_their_published_size(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = trunk(name, width=64)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_parameters_have_the_names_of_torchvision() -> None:
    names = set(trunk("resnet50").state_dict())
    known = {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer3.5.bn2.bias",
        "layer4.2.conv1.weight",
    }
    assert known <= names
    assert "layer2.1.downsample.0.weight" not in names
    assert "layer1.0.downsample.0.weight" not in trunk("resnet18").state_dict()


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4)])
def test_maps_have_the_strides_and_channels_of_their_stages(name: str, expansion: int) -> None:
    network = trunk(name, stages=(2, 4)).eval()
    maps = network(torch.randn(2, 3, 64, 96))
    assert [tuple(entry.shape) for entry in maps] == [(2, 16 * expansion, 8, 12), (2, 64 * expansion, 2, 3)]
    assert network.channels == (16 * expansion, 64 * expansion)


def test_stages_that_nobody_needs_are_not_built() -> None:
    assert not any(name.startswith("layer3") for name in trunk(stages=(1, 2)).state_dict())


def test_frozen_parts_do_not_move() -> None:
    network = trunk(frozen_stages=1, frozen_norm=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([entry for entry in network.parameters() if entry.requires_grad], lr=0.1)
    torch.stack([entry.mean() for entry in network(torch.randn(2, 3, 32, 32))]).sum().backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("bn" in name or "running" in name or name.startswith(("conv1", "layer1")) for name in moved)
    assert "layer2.0.conv1.weight" in moved
    assert "layer4.1.conv2.weight" in moved


def test_batch_norm_trains_unless_frozen() -> None:
    network = trunk(stages=(1,)).train()
    network(torch.randn(2, 3, 32, 32))
    assert int(network.bn1.num_batches_tracked) == 1


def test_basic_blocks_have_no_bottleneck_options() -> None:
    for changes in ({"style": "caffe"}, {"deformable_stages": (3,)}):
        with pytest.raises(ValueError, match="concern the bottlenecks of resnet50 and resnet101; leave them unset"):
            trunk("resnet18", **changes)
    with pytest.raises(ValueError, match="style must be one of pytorch, caffe"):
        trunk("resnet50", style="tensorflow")
    with pytest.raises(ValueError, match="deformable_stages must be among 1, 2, 3, 4"):
        trunk("resnet50", deformable_stages=(5,))
