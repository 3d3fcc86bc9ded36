import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.model import deformable
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention, deformable_sample, ring_offsets
from bevdistill_ros.model.layers import maps_of, project_map, tokens_of


def bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """Value (D,) of a map (D, h, w) at normalised (x, y); cell i has its centre at (i + 0.5) / count; zero outside."""
    _, height, width = level.shape
    col, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(col), math.floor(row)
    total = torch.zeros_like(level[:, 0, 0])
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < height and 0 <= c < width:
                total = total + (1 - abs(row - r)) * (1 - abs(col - c)) * level[:, r, c]
    return total


def slow_sample(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    batch, heads, num_levels, points, _, queries = locations.shape
    depth = levels[0].shape[1] // heads
    result = torch.zeros(batch, queries, heads * depth, dtype=levels[0].dtype)
    for b in range(batch):
        for q in range(queries):
            for g in range(heads):
                for index in range(num_levels):
                    level = levels[index][b, g * depth : (g + 1) * depth]
                    for p in range(points):
                        x, y = locations[b, g, index, p, :, q].tolist()
                        value = weights[b, g, index, p, q] * bilinear(level, x, y)
                        result[b, q, g * depth : (g + 1) * depth] += value
    return result


def case(seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(seed)
    levels = [torch.randn(2, 6, 5, 7), torch.randn(2, 6, 3, 2)]
    locations = torch.rand(2, 3, 2, 2, 2, 4) * 1.4 - 0.2  # some outside
    return levels, locations, torch.rand(2, 3, 2, 2, 4)


@pytest.mark.parametrize("cached", [1, 10**9])
def test_sampling_equals_slow_loops(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "CACHED_ELEMENTS", cached)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    levels, locations, weights = case()
    torch.testing.assert_close(
        deformable_sample(levels, locations, weights), slow_sample(levels, locations, weights), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("cached", "kept"), [(1, 10**9), (1, 0), (10**9, 0)])
def test_gradients_are_the_same_in_pieces_and_with_samples_taken_again(
    cached: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    def gradients(cached: int, kept: int) -> list[Tensor]:
        monkeypatch.setattr(deformable, "CACHED_ELEMENTS", cached)
        monkeypatch.setattr(deformable, "KEPT_ELEMENTS", kept)
        levels, locations, weights = case()
        leaves = [entry.requires_grad_() for entry in (*levels, locations, weights)]
        deformable_sample(levels, locations, weights).square().sum().backward()
        return [entry.grad for entry in leaves if entry.grad is not None]

    whole, other = gradients(10**9, 10**9), gradients(cached, kept)
    assert len(whole) == 4
    for first, second in zip(whole, other, strict=True):
        torch.testing.assert_close(first, second)


def test_samples_that_are_taken_again_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "KEPT_ELEMENTS", 0)
    levels, locations, weights = torch.randn(1, 64, 4, 4), torch.rand(1, 2, 1, 3, 2, 100), torch.rand(1, 2, 1, 3, 100)
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        deformable_sample([levels.requires_grad_()], locations.requires_grad_(), weights.requires_grad_())
    assert sum(sizes) < 100 * 3 * 64 / 4  # a sample has 64 channels


def test_attention_equals_slow_loops(shake: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(1)
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=2, num_levels=2, num_points=3)
    shake(attention)
    query, reference = torch.randn(2, 5, 8), torch.rand(2, 5, 2)
    levels = [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]
    offsets = attention.sampling_offsets(query).reshape(2, 5, 2, 2, 3, 2)
    weights = attention.attention_weights(query).reshape(2, 5, 2, 6).softmax(-1).reshape(2, 5, 2, 2, 3)
    locations = torch.empty_like(offsets)
    for index, level in enumerate(levels):
        locations[..., index, :, 0] = reference[:, :, None, None, 0] + offsets[..., index, :, 0] / level.shape[3]
        locations[..., index, :, 1] = reference[:, :, None, None, 1] + offsets[..., index, :, 1] / level.shape[2]
    values = [maps_of(attention.value_projection(tokens_of(level)), *level.shape[-2:]) for level in levels]
    expected = attention.output_projection(slow_sample(values, locations.movedim(1, -1), weights.movedim(1, -1)))
    torch.testing.assert_close(attention(query, reference, levels), expected, atol=1e-5, rtol=1e-5)


def test_places_of_other_levels_than_there_are_maps_are_refused() -> None:
    levels, locations, weights = case()
    for count in (1, 3):
        with pytest.raises(ValueError, match="zip"):
            deformable_sample([*levels, *levels][:count], locations, weights)


def test_a_constant_map_gives_its_value_everywhere_inside() -> None:
    _, locations, weights = case()
    levels = [torch.full((2, 6, 9, 9), 2.0)] * 2
    found = deformable_sample(levels, 0.2 + 0.6 * locations.clamp(0, 1), weights)
    torch.testing.assert_close(found, 2 * weights.sum((2, 3)).repeat_interleave(2, dim=1).transpose(1, 2))


def test_batch_of_two_is_two_batches_of_one(shake: Callable[[nn.Module], None]) -> None:
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=1, num_points=2)
    shake(attention)
    query, reference, level = torch.randn(2, 5, 8), torch.rand(2, 5, 2), torch.randn(2, 8, 6, 4)
    both = attention(query, reference, [level])
    for item in range(2):
        one = slice(item, item + 1)
        torch.testing.assert_close(both[one], attention(query[one], reference[one], [level[one]]), atol=1e-5, rtol=1e-5)


def test_inputs_are_not_changed(shake: Callable[[nn.Module], None]) -> None:
    attention = MultiScaleDeformableAttention(embed_dim=8, num_heads=4, num_levels=1, num_points=2)
    shake(attention)
    inputs = [torch.randn(1, 5, 8), torch.rand(1, 5, 2), torch.randn(1, 8, 6, 4)]
    before = [entry.clone() for entry in inputs]
    attention(inputs[0], inputs[1], [inputs[2]])
    assert all(torch.equal(first, second) for first, second in zip(inputs, before, strict=True))


def test_first_offsets_lie_on_a_ring() -> None:
    ring = ring_offsets(4, 2, 3)
    assert ring.shape == (4, 2, 3, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(ring[:, 1, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(ring[:, 0, 2], 3 * expected, atol=1e-6, rtol=0)


def test_tokens_run_row_by_row() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert tokens_of(maps)[0, :, 0].tolist() == list(range(12))
    assert torch.equal(maps_of(tokens_of(maps), 3, 4), maps)


def test_a_projected_map_is_the_projection_of_each_cell() -> None:
    layer, maps = nn.Linear(3, 5), torch.randn(2, 3, 4, 6)
    expected = layer(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(project_map(layer, maps), expected)


def test_sampling_is_exact_under_autocast() -> None:
    levels, locations, weights = case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = deformable_sample(levels, locations, weights)
    torch.testing.assert_close(found, slow_sample(levels, locations, weights), atol=1e-5, rtol=1e-5)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="divisible by num_heads"):
        MultiScaleDeformableAttention(embed_dim=10, num_heads=4, num_levels=1, num_points=1)
