"""By hand: the terms that MonoDistill and UniDistill share, on nine cells of 1 m.

Maps are their own box maps. Cells weigh 1, four times 1/2 and four times 1/4.
"""

import math

import pytest
import torch
from torch import nn

from training.distill.monodistill import MonoDistillConfig
from training.distill.unidistill import UniDistillConfig

HALF_AT_A_METRE = (2 * math.log(2)) ** -0.5  # sigma [m] of a mask of 1 at a centre, 1/2 at 1 m, 1/4 at 1.4 m


@pytest.fixture(params=["monodistill", "unidistill"])
def losses_of(request, nine_cells, make_nine_cells, shapes_of):
    """Makes the terms of two maps by their names in UniDistill; MonoDistill's affinity is a relation too."""
    config = MonoDistillConfig(sigma=HALF_AT_A_METRE, affinity_cells=3, tap="encoded")
    if request.param == "unidistill":
        config = UniDistillConfig(sigma=HALF_AT_A_METRE, tap="encoded")
    distiller = config.build(shapes_of(nine_cells, 10))
    distiller.student_head = distiller.teacher_head = nn.Identity()

    def make(student, teacher):
        scene = make_nine_cells(student, teacher)
        losses = distiller(scene.student, scene.teacher, scene.batch)
        short = {name.removeprefix(f"{request.param}_"): loss for name, loss in losses.items()}
        return {name.replace("affinity", "relation"): loss for name, loss in short.items()}

    return make


def test_relation_is_the_mean_difference_of_cosines_of_all_pairs(losses_of):
    """The teacher's middle has cosine 0.6 with the eight others, in either order; the student's are alike."""
    student, teacher = torch.zeros(2, 10, 3, 3)
    student[0], teacher[0] = 5.0, 2.0
    teacher[:2, 1, 1] = torch.tensor([6.0, 8.0])
    loss = losses_of(student, teacher)["relation"]
    assert loss.item() == pytest.approx(2 * 8 * 0.4 / 9**2, rel=1e-4)


def test_response_is_the_mean_distance_of_box_maps_by_their_weight(losses_of):
    student, teacher = torch.zeros(2, 10, 3, 3)
    student[3, 1, 1], teacher[5, 1, 1] = 1.0, -2.0  # 3 in all at the centre
    student[0, 0, 1], teacher[0, 0, 1] = 7.0, 3.0  # 4 at a side
    teacher[9, 2, 2] = 8.0  # at a corner
    loss = losses_of(student, teacher)["response"]
    assert loss.item() == pytest.approx((1 * 3 + 4 / 2 + 8 / 4) / (1 + 4 / 2 + 4 / 4), rel=1e-4)


def test_teacher_head_is_compared_with_the_box_as_each_cell_sees_it(losses_of):
    """Twice log 2 m and a cosine of 1 everywhere; and the way to the centre, 1 m from a side, 2 m from a corner."""
    loss = losses_of(torch.ones(10, 3, 3), torch.zeros(10, 3, 3))["teacher_head"]
    way = (4 * 1 / 2 + 4 * 2 / 4) / (1 + 4 / 2 + 4 / 4)
    assert loss.item() == pytest.approx(2 * math.log(2) + 1 + way, rel=1e-4)
