"""What holds for every method."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from jsonargparse import ArgumentParser

from bevdistill_ros.model.records import SetPrediction
from training.distill.base import CompositeDistiller, bev_pair, exact_product
from training.distill.bevdistill_dense import BevDistillDenseConfig
from training.distill.bevdistill_sparse import BevDistillSparseConfig
from training.distill.build import METHODS, RECIPES, DistillConfig, build_distiller, weights_of
from training.distill.cross_head import CrossHeadConfig
from training.distill.fitnet import FitNetConfig
from training.distill.label_teacher import LabelTeacherConfig
from training.distill.monodistill import MonoDistillConfig
from training.distill.set2set import Set2SetConfig
from training.distill.unidistill import UniDistillConfig
from training.distill.uvtr import UvtrConfig

ACTIVE = [method for method in METHODS if method != "none"]
ON_MAPS = [method for method in ACTIVE if method not in ("set2set", "bevdistill_sparse")]


@pytest.fixture
def build(teacher_decoder):
    def make(method, grid, channels):
        torch.manual_seed(0)
        return build_distiller(
            DistillConfig(method=method),
            grid=grid,
            student_channels=channels,
            teacher_channels=channels,
            teacher_decoder=teacher_decoder,
        )

    return make


def total(losses):
    return torch.stack(list(losses.values())).sum()


def permuted(predictions: SetPrediction, order: torch.Tensor) -> SetPrediction:
    return SetPrediction(
        logits=predictions.logits[:, :, order],
        codes=predictions.codes[:, :, order],
        features=predictions.features[:, :, order],
    )


@pytest.mark.parametrize("method", METHODS)
def test_terms_are_finite_scalars_and_each_has_a_weight(build, method, make_scene, grid, channels):
    scene = make_scene()
    losses = build(method, grid, channels)(scene.student, scene.teacher, scene.batch)
    assert losses.keys() == weights_of(DistillConfig(method=method)).keys()
    assert all(value.ndim == 0 and value.isfinite() and value > 0 for value in losses.values())


@pytest.mark.parametrize("method", ACTIVE)
@pytest.mark.parametrize("num_boxes", [(3, 2), (0, 0), (2, 0)])
def test_gradients_reach_the_student_and_every_layer_of_the_distiller_but_never_the_teacher(
    build, method, num_boxes, make_scene, grid, channels
):
    scene = make_scene(num_boxes)
    distiller = build(method, grid, channels)
    loss = total(distiller(scene.student, scene.teacher, scene.batch))
    loss.backward()
    assert loss.isfinite()
    predictions = scene.student.predictions
    leaves = [scene.student.bev, predictions.logits, predictions.codes, predictions.features]
    reached = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert reached
    assert all(gradient.isfinite().all() for gradient in reached)
    if min(num_boxes) > 0:
        assert any(gradient.abs().sum() > 0 for gradient in reached)
    assert all(parameter.grad is not None for parameter in distiller.parameters())
    teacher = scene.teacher
    of_teacher = [
        teacher.finest,
        teacher.encoded,
        *(value for value in vars(teacher.predictions).values() if value is not None),
    ]
    assert all(tensor.grad is None for tensor in of_teacher)


@pytest.mark.parametrize("method", ACTIVE)
@pytest.mark.parametrize("num_boxes", [(3, 2), (4, 0)])
def test_batch_of_two_is_the_mean_of_two_batches_of_one(build, method, num_boxes, make_scene, grid, channels):
    scene = make_scene(num_boxes)
    distiller = build(method, grid, channels).eval()  # batch normalisation mixes items while it learns
    together = distiller(scene.student, scene.teacher, scene.batch)
    parts = [scene.item(index) for index in range(2)]
    alone = [distiller(part.student, part.teacher, part.batch) for part in parts]
    for name, value in together.items():
        # A decoder adds up in another order for another batch.
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ACTIVE)
def test_order_of_queries_does_not_matter(build, method, make_scene, grid, channels):
    scene = make_scene()
    distiller = build(method, grid, channels).eval()
    student_order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    teacher_order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    if "cross_head" in distiller.parts:  # whose queries are the decoder's own
        teacher_order = torch.arange(7)
    student = replace(scene.student, predictions=permuted(scene.student.predictions, student_order))
    teacher = replace(scene.teacher, predictions=permuted(scene.teacher.predictions, teacher_order))
    expected = distiller(scene.student, scene.teacher, scene.batch)
    torch.testing.assert_close(distiller(student, teacher, scene.batch), expected)


@pytest.mark.parametrize("method", ACTIVE)
def test_inputs_are_left_alone(build, method, make_scene, grid, channels):
    scene, untouched = make_scene(), make_scene()
    total(build(method, grid, channels)(scene.student, scene.teacher, scene.batch)).backward()
    for mine, theirs in ((scene.student, untouched.student), (scene.teacher, untouched.teacher)):
        for name in ("bev", "finest", "encoded"):
            if hasattr(mine, name):
                assert torch.equal(getattr(mine, name), getattr(theirs, name))
        for name, value in vars(mine.predictions).items():
            if value is None:
                continue
            assert torch.equal(value, getattr(theirs.predictions, name))
    assert all(torch.equal(a, b) for a, b in zip(scene.batch.boxes, untouched.batch.boxes, strict=True))


@pytest.mark.parametrize("method", ON_MAPS)
def test_maps_on_different_grids_are_refused(build, method, make_scene, grid, channels):
    scene = make_scene()
    distiller = build(method, grid.with_cells(rows=grid.rows, cols=grid.cols + 1), channels)
    with pytest.raises(ValueError, match="share a BEV grid"):
        distiller(scene.student, scene.teacher, scene.batch)


def test_a_map_that_is_not_on_its_grid_is_refused(make_scene, grid):
    scene = make_scene()
    transposed = replace(scene.student, bev=scene.student.bev.transpose(-1, -2))
    with pytest.raises(ValueError, match="student's BEV map"):
        bev_pair(transposed, scene.teacher, grid=grid, tap="auto")


def test_tap_chooses_the_map_of_the_teacher(make_scene, grid):
    scene = make_scene()
    plain = replace(scene.teacher, encoded=None)

    def tapped(teacher, tap):
        return bev_pair(scene.student, teacher, grid=grid, tap=tap)[1]

    assert torch.equal(tapped(scene.teacher, "auto"), scene.teacher.encoded)
    assert torch.equal(tapped(scene.teacher, "encoded"), scene.teacher.encoded)
    assert torch.equal(tapped(scene.teacher, "finest"), scene.teacher.finest)
    assert torch.equal(tapped(plain, "auto"), scene.teacher.finest)
    with pytest.raises(ValueError, match="set tap to finest or auto"):
        tapped(plain, "encoded")


@pytest.mark.parametrize("method", ["set2set", "bevdistill_sparse"])
def test_a_teacher_without_queries_is_refused_by_methods_on_queries(build, method, make_scene, grid, channels):
    scene = make_scene()
    distiller = build(method, grid, channels)
    with pytest.raises(ValueError, match="has no queries"):
        distiller(scene.student, replace(scene.teacher, predictions=None), scene.batch)


@pytest.mark.parametrize("method", [method for method in ON_MAPS if method not in (*RECIPES, "cross_head")])
def test_a_teacher_without_queries_serves_methods_on_maps(build, method, make_scene, grid, channels):
    scene = make_scene()
    losses = build(method, grid, channels)(scene.student, replace(scene.teacher, predictions=None), scene.batch)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("method", ON_MAPS)
def test_student_and_teacher_may_have_different_channels(method, make_scene, grid, channels, teacher_decoder):
    scene = make_scene()
    narrow = replace(scene.student, bev=scene.student.bev[:, :4])
    torch.manual_seed(0)
    distiller = build_distiller(
        DistillConfig(method=method),
        grid=grid,
        student_channels=4,
        teacher_channels=channels,
        student_feature_dim=channels,
        teacher_feature_dim=channels,
        teacher_decoder=teacher_decoder,
    )
    assert all(value.isfinite() for value in distiller(narrow, scene.teacher, scene.batch).values())


@pytest.mark.parametrize(("recipe", "names"), RECIPES.items())
def test_a_recipe_is_its_parts(recipe, names, build, make_scene, grid, channels):
    scene = make_scene()
    whole = build(recipe, grid, channels).eval()
    expected = {}
    for name in names:
        expected |= whole.parts[name](scene.student, scene.teacher, scene.batch)
    assert whole.parts.keys() == set(names)
    torch.testing.assert_close(whole(scene.student, scene.teacher, scene.batch), expected)


def test_none_has_no_terms_and_no_parameters(build, make_scene, grid, channels):
    scene = make_scene()
    distiller = build("none", grid, channels)
    assert isinstance(distiller, CompositeDistiller)
    assert distiller(scene.student, scene.teacher, scene.batch) == {}
    assert not list(distiller.state_dict())


@dataclass(frozen=True, kw_only=True)
class Settings:
    distill: DistillConfig = field(default_factory=DistillConfig)


def test_command_line_reaches_the_settings_of_a_method():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings", type=Settings)
    arguments = ["--settings.distill.method=bevdistill", "--settings.distill.bevdistill_dense.weight=0.5"]
    config = parser.instantiate(parser.parse_args(arguments)).settings.distill
    assert weights_of(config) == {"dense": 0.5, "sparse_mi": None}
    assert "class_path" not in parser.dump(parser.parse_args(arguments))


@pytest.mark.parametrize(
    "settings",
    [
        FitNetConfig(tap="finest"),
        Set2SetConfig(num_queries=5, match_class_weight=2.0, match_box_weight=3.0, velocity_weight=4.0),
        MonoDistillConfig(sigma=0.7, affinity_cells=5, tap="finest"),
        UvtrConfig(tap="finest"),
        BevDistillDenseConfig(mask="box", sigma=0.7, tap="finest"),
        BevDistillSparseConfig(
            quality=False, gamma=0.3, num_queries=1, temperature=0.2, positions="release", tap="finest"
        ),
        BevDistillSparseConfig(
            class_term="kl",
            box_term=False,
            negatives="batch",
            match_class_weight=2.0,
            match_box_weight=3.0,
            velocity_weight=4.0,
        ),
        UniDistillConfig(sigma=0.7, tap="finest"),
        CrossHeadConfig(velocity_weight=0.4),
        LabelTeacherConfig(sigma=0.7),
    ],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_reach_the_distiller(settings, grid, teacher_decoder, make_scene, shapes_of):
    """They change what it measures."""
    scene = make_scene()

    def losses(config):
        torch.manual_seed(0)
        distiller = config.build(shapes_of(grid, 6, teacher_decoder)).eval()
        return {name: loss.item() for name, loss in distiller(scene.student, scene.teacher, scene.batch).items()}

    usual = type(settings)()
    if isinstance(settings, BevDistillSparseConfig):
        usual = replace(usual, box_term=True)
    if getattr(settings, "tap", None) == "finest" and hasattr(settings, "positions"):
        usual = replace(usual, positions="release")  # which alone reads a map
    for name, value in vars(settings).items():
        if value != getattr(usual, name):
            assert losses(replace(usual, **{name: value})) != losses(usual), name


def test_product_is_exact_under_autocast():
    first, second = torch.rand(3, 4), torch.rand(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (first @ second).dtype == torch.bfloat16
        product = exact_product(first, second)
    torch.testing.assert_close(product, (first.double() @ second.double()).float(), rtol=1e-6, atol=0)


def test_methods_are_added_up():
    config = DistillConfig(method="fitnet+bevdistill+bevdistill_dense")
    assert list(config.parts()) == ["fitnet", "bevdistill_dense", "bevdistill_sparse"]
    assert config.inherits_decoder(from_scratch=True)
    assert not config.inherits_decoder(from_scratch=False)
    assert not DistillConfig(method="fitnet+bevdistill_sparse").inherits_decoder(from_scratch=True)
    with pytest.raises(ValueError, match=r"must be one of none, fitnet, .*, but is dense"):
        DistillConfig(method="fitnet+dense")
    with pytest.raises(ValueError, match=r"none\+fitnet has none among others"):
        DistillConfig(method="none+fitnet")


def test_learned_weights_learn_in_each_step():
    with pytest.raises(ValueError, match=r"uncertainty learns in each step: set distill\.every to 1"):
        DistillConfig(method="fitnet", balance="uncertainty", every=2)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="must be one of none, fitnet"):
        DistillConfig(method="fitnets")


def test_settings_of_a_method_refuse_an_emphasis_of_nothing():
    with pytest.raises(ValueError, match=r"FitNetConfig\.emphasis must be above 0, but is 0"):
        FitNetConfig(emphasis=0)


def test_settings_of_every_method_refuse_negative_weights():
    parts = [DistillConfig(method=method).parts() for method in ACTIVE]
    for part in (settings for group in parts for settings in group.values()):
        name = next(name for name in vars(part) if name.endswith("weight"))
        with pytest.raises(ValueError, match=f"{name} must not be negative"):
            replace(part, **{name: -1.0})
