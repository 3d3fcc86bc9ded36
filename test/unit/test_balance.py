import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.data.sample import collate
from training.distill.bevdistill_dense import BevDistillDenseConfig
from training.distill.build import DistillConfig, shares_of, weights_of
from training.run.balance import GradientBalance, UncertaintyBalance, dominant_terms, gradient_norms
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module, fit
from training.weights.checkpoint import read_checkpoint


def test_gradient_norms_are_those_at_the_shared_map() -> None:
    shared = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = {
        "square": 0.5 * shared.square().sum(),  # gradient (3, 4)
        "scaled": 2.0 * shared.sum(),  # gradient (2, 2)
        "other": torch.ones(1, requires_grad=True).sum(),
        "fixed": torch.tensor(7.0),
    }
    norms = gradient_norms(terms, shared)
    assert norms == pytest.approx({"square": 5.0, "scaled": 8**0.5, "other": 0.0, "fixed": 0.0})
    assert shared.grad is None
    sum(terms.values()).backward()  # the graph is still there


def test_terms_over_ten_times_the_detection_loss_are_found() -> None:
    weighted = {name: torch.tensor(value) for name, value in {"box": 1.0, "heatmap": 1.0, "a": 21.0, "b": 19.0}.items()}
    assert dominant_terms(weighted, ("classification", "box", "heatmap")) == pytest.approx({"a": 10.5})


def test_a_dominant_term_is_told_once(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {
        "distill.method": "fitnet",
        "distill.fitnet.weight": 1e6,
        "teacher_checkpoint": str(tiny_teacher),
        "optim.steps": 3,
        "run.balance_every": 1,
    }
    with caplog.at_level(logging.WARNING, logger="training"):
        fit(make_run(tmp_path / "run", **changes))
    (line,) = [record.message for record in caplog.records if "weighs" in record.message]
    assert line.startswith("step 1: fitnet weighs ")
    assert line.endswith("times the detection loss; lower its weight")


class TestGradientBalance:
    def test_each_term_gets_its_part_of_the_share(self) -> None:
        balance = GradientBalance({"a": 0.25, "b": 0.125}, every=20)
        balance.update(8.0, {"a": 2.0, "b": 1e-3})
        factors = balance.factors()
        # A quarter and an eighth of 8: 2 / 2 and 1 / 0.001.
        assert {name: float(value) for name, value in factors.items()} == pytest.approx({"a": 1.0, "b": 1000.0})

    def test_norms_are_averaged_on_a_logarithmic_scale(self) -> None:
        balance = GradientBalance({"a": 1.0}, every=20)
        balance.update(1.0, {"a": 1.0})
        balance.update(1.0, {"a": 100.0})
        assert float(balance.factors()["a"]) == pytest.approx(0.1)
        for _ in range(200):
            balance.update(1.0, {"a": 4.0})
        assert float(balance.factors()["a"]) == pytest.approx(0.25, rel=1e-4)

    def test_a_term_without_gradient_keeps_its_factor(self) -> None:
        balance = GradientBalance({"a": 1.0}, every=20)
        assert float(balance.factors()["a"]) == 0.0
        balance.update(3.0, {"a": 1.5})
        balance.update(3.0, {"a": 0.0})
        assert float(balance.factors()["a"]) == pytest.approx(2.0)

    def test_it_measures_often_at_first(self) -> None:
        balance = GradientBalance({"a": 1.0}, every=20)
        assert [step for step in range(1, 61) if balance.is_due(step)] == [1, 2, 4, 8, 16, 20, 40, 60]
        assert not any(GradientBalance({}, every=1).is_due(step) for step in range(1, 9))


def test_the_share_is_divided_by_emphasis() -> None:
    assert shares_of(DistillConfig(method="bevdistill_dense", share=0.8)) == {"dense": 0.8}
    both = shares_of(DistillConfig(method="bevdistill", share=2.2))
    assert both == pytest.approx({"dense": 2.0, "sparse_mi": 0.2})
    # A term of a fixed weight takes no part in it.
    fixed = DistillConfig(method="bevdistill", share=2.2, bevdistill_dense=BevDistillDenseConfig(weight=0.1))
    assert shares_of(fixed) == pytest.approx({"sparse_mi": 2.2})
    assert shares_of(DistillConfig(method="none")) == {}


def test_gradients_have_the_share_whatever_the_scale_of_the_teacher(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path
) -> None:
    changes = {"distill.method": "set2set", "teacher_checkpoint": str(tiny_teacher), "distill.share": 0.6}
    module = build_module(make_run(tmp_path / "run", **changes)).train()
    dataset = train_dataset(make_run(tmp_path / "run", **changes))
    losses, bev = module.terms(collate([dataset[0], dataset[1]]))
    losses["set2set_class"] = 1e4 * losses["set2set_class"]
    module.measure(losses, bev)
    weighted = module.weighted(losses)
    distilled = {name: weighted.pop(name) for name in ("set2set_class", "set2set_box")}
    norms = gradient_norms({"detection": torch.stack(list(weighted.values())).sum(), **distilled}, bev)
    for name in distilled:
        assert norms[name] == pytest.approx(0.3 * norms["detection"], rel=1e-4)


def test_the_checkpoint_holds_the_balance(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path
) -> None:
    """That a resumed run repeats it shows in test_fit: an interrupted distilled student equals an uninterrupted one."""
    changes = {"distill.method": "fitnet", "teacher_checkpoint": str(tiny_teacher), "distill.balance_every": 3}
    checkpoint = fit(make_run(tmp_path / "run", **changes, **{"optim.steps": 4}))
    weights = read_checkpoint(checkpoint)["state_dict"]
    assert weights["gradient_balance.count"].tolist() == [3, 3]  # steps 1, 2 and 3
    assert bool((weights["gradient_balance.norms"] != 0).all())


def test_published_weights_go_by_name() -> None:
    release = DistillConfig(method="bevdistill_dense", bevdistill_dense=BevDistillDenseConfig(weight="release"))
    assert weights_of(release) == {"dense": 0.01}
    assert weights_of(DistillConfig(method="bevdistill_dense")) == {"dense": None}
    with pytest.raises(ValueError, match="must be one of auto, a number, release, but is paper"):
        BevDistillDenseConfig(weight="paper")


def test_uncertainty_weighting_learns_the_inverse_of_a_term() -> None:
    """exp(-s) L + s is smallest at s = log L."""
    balance = UncertaintyBalance(["large", "small"])
    terms = {"large": 50.0, "small": 0.02}
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.1)
    for _ in range(300):
        factors = balance.factors()
        loss = sum(factors[name] * value for name, value in terms.items()) + balance.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weighted = {name: float(factor) * terms[name] for name, factor in balance.factors().items()}
    assert weighted == pytest.approx({"large": 1.0, "small": 1.0}, abs=0.02)


def test_a_run_learns_its_uncertainties(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path
) -> None:
    changes = {
        "distill.method": "bevdistill_dense",
        "distill.balance": "uncertainty",
        "teacher_checkpoint": str(tiny_teacher),
        "optim.steps": 2,
    }
    weights = read_checkpoint(fit(make_run(tmp_path / "run", **changes)))["state_dict"]
    assert weights["gradient_balance.log_variance"].abs().max() > 0
    assert set(weights) & {"gradient_balance.norms", "gradient_balance.count"} == set()


def test_without_any_label_terms_are_balanced_against_one() -> None:
    balance = GradientBalance({"near": 0.25, "far": 0.25}, every=20)
    balance.update(0.0, {"near": 2.0, "far": 0.0})
    assert {name: float(value) for name, value in balance.factors().items()} == pytest.approx(
        {"near": 0.25 / 2.0, "far": 0.0}
    )
    balance.update(4.0, {"near": 2.0, "far": 1.0})  # the first labelled batch
    assert float(balance.factors()["near"]) == pytest.approx(0.25 * 4.0 / 2.0)
    balance.update(0.0, {"near": 2.0, "far": 1.0})  # and one without labels again
    assert float(balance.factors()["near"]) == pytest.approx(0.25 * 4.0 / 2.0)
