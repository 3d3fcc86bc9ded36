"""The label teacher: ground truth drawn as a map that the teacher's decoder reads as boxes."""

import math

import pytest
import torch

from training.distill.label_teacher import LabelTeacherConfig, draw_labels


def test_labels_are_drawn_by_hand(nine_cells):
    """A box in the middle of nine cells of 1 m; the mask is 1 there and a half at the four sides."""
    box = torch.tensor([[0.0, 0.0, 0.5, 2.0, 1.0, 1.0, 0.0, math.nan, 3.0]])
    half_at_a_metre = (2 * math.log(2)) ** -0.5
    labels = [torch.tensor([4]), torch.zeros(0, dtype=torch.int64)]
    maps = draw_labels([box, box[:0]], labels, nine_cells, sigma=half_at_a_metre)
    assert maps.shape == (2, 21, 3, 3)
    assert not maps[1].any()
    heatmaps, codes, mask = maps[0].split([10, 10, 1])
    assert heatmaps[4, 1, 1] == 1
    assert not torch.cat([heatmaps[:4], heatmaps[5:]]).any()
    torch.testing.assert_close(mask[0, 1], torch.tensor([0.5, 1.0, 0.5]))
    assert codes[:, 1, 1].isfinite().all()
    assert codes[0, 1, 1] == 0  # its centre is the cell's
    assert codes[0, 1, 0].abs() == pytest.approx(0.5)  # a metre off, at half the mask
    assert 3.0 in codes[:, 1, 1]
    assert codes[:, 1, 1].tolist().count(0.0) >= 3  # x, y, and the unknown velocity


def test_the_encoder_learns_what_the_decoder_reads(make_scene, grid, channels, teacher_decoder, shapes_of):
    torch.manual_seed(0)
    shapes = shapes_of(grid, channels, teacher_decoder)
    scene, distiller = make_scene(), LabelTeacherConfig().build(shapes)
    before = {name: value.clone() for name, value in teacher_decoder.state_dict().items()}
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.02)
    values = []
    for _ in range(25):
        loss = distiller(scene.student, scene.teacher, scene.batch)["label_encoder"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.97 * values[0]  # this decoder, of random weights, can hardly be made to say anything
    assert all(torch.equal(value, before[name]) for name, value in teacher_decoder.state_dict().items())
    assert not any("head" in name for name in distiller.state_dict())
    assert all(value.is_meta for value in distiller.to("meta")._head[0].parameters())


def test_the_teachers_own_map_does_not_matter(make_scene, grid, channels, teacher_decoder, shapes_of):
    torch.manual_seed(0)
    shapes = shapes_of(grid, channels, teacher_decoder)
    distiller = LabelTeacherConfig().build(shapes).eval()
    scene, other = make_scene(), make_scene(seed=1)
    expected = distiller(scene.student, scene.teacher, scene.batch)
    torch.testing.assert_close(distiller(scene.student, other.teacher, scene.batch), expected)


def test_sigma_must_be_above_zero():
    with pytest.raises(ValueError, match="sigma must be above 0 m, but is 0"):
        LabelTeacherConfig(sigma=0.0)
