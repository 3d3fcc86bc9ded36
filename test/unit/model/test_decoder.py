import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.decoder import SetDecoder, spread_points
from bevdistill_ros.model.layers import sine_embedding


def decoder_of(grid: BevGrid, **changes: object) -> SetDecoder:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "embed_dim": 16,
        "num_heads": 2,
        "num_layers": 3,
        "num_queries": 10,
        "num_points": 2,
        "num_levels": 2,
        "grid": grid,
        "feedforward_dim": 20,
        "dropout": 0.0,
    }
    return SetDecoder(**{**settings, **changes})  # type: ignore[arg-type]


def maps(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, 16, *size, generator=generator) for size in ((8, 12), (4, 6))]


def test_shapes(grid: BevGrid) -> None:
    found = decoder_of(grid)(maps())
    assert found.logits.shape == (3, 2, 10, 10)
    assert found.codes.shape == (3, 2, 10, 10)
    assert found.features.shape == (3, 2, 10, 16)


def test_untrained_boxes_sit_on_their_reference_points(grid: BevGrid) -> None:
    decoder = decoder_of(grid)
    with torch.no_grad():
        for head in decoder.box_heads:
            assert isinstance(head, nn.Sequential)
            head[-1].weight.zero_()
    found = decoder(maps())
    centres = grid.denormalize(decoder.selection.reference.sigmoid())
    for layer in range(3):
        torch.testing.assert_close(found.codes[layer, 1][:, [0, 1, 4]], centres, atol=1e-3, rtol=0)


def test_untrained_class_scores_are_the_prior(grid: BevGrid) -> None:
    scores = decoder_of(grid)(maps()).logits.detach().sigmoid()
    assert 0.005 < float(scores.min()) < float(scores.max()) < 0.02


def test_codes_of_the_first_layer_by_hand(grid: BevGrid, shake: Callable[[nn.Module], None]) -> None:
    decoder = decoder_of(grid)
    shake(decoder)
    found = decoder(maps())
    raw = decoder.box_heads[0](found.features[0])
    unit = (decoder.selection.reference + raw[..., [0, 1, 4]]).sigmoid()
    x = grid.x_min + unit[..., 0] * (grid.x_max - grid.x_min)
    y = grid.y_min + unit[..., 1] * (grid.y_max - grid.y_min)
    z = grid.z_min + unit[..., 2] * (grid.z_max - grid.z_min)
    columns = [x, y, raw[..., 2], raw[..., 3], z, *raw[..., 5:].unbind(-1)]
    torch.testing.assert_close(found.codes[0], torch.stack(columns, -1), atol=1e-4, rtol=1e-4)


def test_a_layer_refines_the_centres_of_the_layer_before(grid: BevGrid, shake: Callable[[nn.Module], None]) -> None:
    decoder = decoder_of(grid)
    shake(decoder)
    found = decoder(maps())
    before = grid.normalize(found.codes[1][..., [0, 1, 4]])
    raw = decoder.box_heads[2](found.features[2])[..., [0, 1, 4]]
    after = grid.denormalize((before.logit() + raw).sigmoid())
    torch.testing.assert_close(found.codes[2][..., [0, 1, 4]], after, atol=1e-3, rtol=1e-3)


def test_gradients_do_not_run_through_the_refined_references(grid: BevGrid, shake: Callable[[nn.Module], None]) -> None:
    decoder = decoder_of(grid)
    shake(decoder)
    decoder(maps()).codes[2].sum().backward()
    for parameter in decoder.box_heads[0].parameters():
        assert parameter.grad is None or not parameter.grad.any()


def test_every_parameter_gets_a_gradient(grid: BevGrid, shake: Callable[[nn.Module], None]) -> None:
    decoder = decoder_of(grid)
    shake(decoder)
    found = decoder(maps())
    (found.logits.square().sum() + found.codes.square().sum()).backward()
    assert [name for name, entry in decoder.named_parameters() if entry.grad is None or not entry.grad.any()] == []


def test_maps_are_read_at_the_reference_point(grid: BevGrid) -> None:
    """A change far from a query's place does not reach it in the first layer's features, one at its place does."""
    decoder = decoder_of(grid, num_layers=1, num_queries=1, num_levels=1)
    with torch.no_grad():
        decoder.selection.reference.copy_(torch.tensor([[0.875, 0.25, 0.5]]).logit())
    blank = torch.zeros(1, 16, 32, 40)
    at_place, elsewhere = blank.clone(), blank.clone()
    at_place[:, :, 5:11, 32:38] = torch.randn(1, 16, 1, 1)  # (x, y) = (0.875, 0.25) is column 34.5, row 7.5
    elsewhere[:, :, 32 - 11 : 32 - 5, :8] = torch.randn(1, 16, 1, 1)
    base = decoder([blank]).features
    assert not torch.allclose(decoder([at_place]).features, base, atol=1e-3)
    torch.testing.assert_close(decoder([elsewhere]).features, base)


def test_batch_of_two_is_two_batches_of_one(grid: BevGrid, shake: Callable[[nn.Module], None]) -> None:
    decoder = decoder_of(grid)
    shake(decoder)
    both = decoder(maps())
    for item in range(2):
        alone = decoder([entry[item : item + 1] for entry in maps()])
        for name in ("logits", "codes", "features"):
            torch.testing.assert_close(
                getattr(both, name)[:, item : item + 1], getattr(alone, name), atol=2e-5, rtol=1e-5
            )


def test_inputs_are_not_changed(grid: BevGrid) -> None:
    levels = maps()
    decoder_of(grid)(levels)
    assert all(torch.equal(first, second) for first, second in zip(levels, maps(), strict=True))


def test_the_query_interaction_can_be_chosen(grid: BevGrid) -> None:
    class Nothing(nn.Module):
        def forward(self, content: Tensor, position: Tensor) -> Tensor:
            return torch.zeros_like(content) * position

    decoder = decoder_of(grid, query_interaction=Nothing)
    assert all(isinstance(layer.interaction, Nothing) for layer in decoder.layers)
    # Without interaction, a query's answer does not depend on the other queries.
    found = decoder(maps())
    with torch.no_grad():
        decoder.selection.content[1:] += torch.randn_like(decoder.selection.content[1:])
    torch.testing.assert_close(decoder(maps()).logits[:, :, 0], found.logits[:, :, 0])
    assert not torch.allclose(decoder(maps()).logits[:, :, 1], found.logits[:, :, 1])


@pytest.mark.parametrize("count", [16, 64, 150])
def test_first_references_cover_the_grid_evenly(count: int) -> None:
    points = spread_points(count)
    assert points.shape == (count, 3)
    assert bool(((points > 0) & (points < 1)).all())
    quarter = 2 * (points[:, 1] >= 0.5).long() + (points[:, 0] >= 0.5).long()
    shares = torch.bincount(quarter, minlength=4) / count
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.07)
    distance = torch.cdist(points[:, :2], points[:, :2]) + torch.eye(count)
    assert float(distance.min()) > 0.2 / math.sqrt(count)


def test_references_can_start_at_random(grid: BevGrid) -> None:
    decoder = decoder_of(grid, spread_references=False)
    assert not torch.allclose(decoder.selection.reference.sigmoid(), spread_points(10))


def test_sine_embedding_tells_places_apart() -> None:
    embedded = sine_embedding(torch.tensor([[0.1, 0.2, 0.3], [0.11, 0.2, 0.3], [0.9, 0.2, 0.3]]))
    assert embedded.shape == (3, 96)
    near, far = (embedded[0] - embedded[1]).norm(), (embedded[0] - embedded[2]).norm()
    assert 0 < float(near) < float(far)


def test_learned_positions_are_the_same_wherever_the_references_are(grid: BevGrid) -> None:
    decoder = decoder_of(grid, query_position="learned", head_layers=2)
    place = torch.rand(2, 10, 3)
    position = decoder.position(place)
    assert position.shape == (2, 10, 16)
    assert torch.equal(position, decoder.position(place / 2))
    assert not any(name.startswith("position.0") for name in decoder.state_dict())


def test_heads_have_as_many_hidden_layers_as_asked_for(grid: BevGrid) -> None:
    for count in (1, 2):
        decoder = decoder_of(grid, head_layers=count)
        class_head, box_head = decoder.class_heads[0], decoder.box_heads[0]
        assert sum(isinstance(part, nn.ReLU) for part in class_head.modules()) == count
        assert sum(isinstance(part, nn.ReLU) for part in box_head.modules()) == count
        assert decoder(maps()).codes.shape == (3, 2, 10, 10)


def test_heads_compute_in_float32_under_autocast() -> None:
    """Half precision would round centres of a 100 m grid by decimetres."""
    torch.manual_seed(0)
    decoder = SetDecoder(
        embed_dim=16, num_heads=2, num_layers=1, num_queries=6, num_points=2, num_levels=1, grid=BevGrid(rows=8, cols=8)
    ).eval()
    for head in (decoder.box_heads[0], decoder.class_heads[0]):
        torch.nn.init.normal_(head[-1].weight)
    kept: list[torch.Tensor] = []
    decoder.layers[0].register_forward_hook(lambda *given: kept.append(given[-1]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prediction = decoder([torch.randn(1, 16, 8, 8)])
    with torch.no_grad():
        content = kept[0].float()
        torch.testing.assert_close(prediction.logits[0], decoder.class_heads[0](content), rtol=0, atol=1e-6)
        raw = decoder.box_heads[0](content)
    torch.testing.assert_close(prediction.codes[0][..., 3], raw[..., 3], rtol=0, atol=1e-6)
