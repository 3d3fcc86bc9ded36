"""Our matching and curves against the devkit's own, which does one box, one class and one threshold at a time."""

import math
from typing import Any

import numpy as np
import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.data_classes import DetectionBox

from bevdistill_ros.core.geometry import quaternion_from_yaw
from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.evaluate.devkit import PROTOCOL
from training.score.boxes import table_of
from training.score.by_class import ERROR_THRESHOLD, THRESHOLDS, ClassMatches
from training.score.curves import Hits
from training.score.matching import by_class, match
from training.score.parts import distance_bands
from training.score.scores import class_scores

KINDS = ("car", "barrier", "traffic_cone", "bus")
TOKENS = tuple(f"frame{number}" for number in range(6))
SCENES = np.array([0, 0, 1, 1, 2, 2])


def box(random: np.random.Generator, token: str, kind: str, centre: np.ndarray, score: float) -> DetectionBox:
    return DetectionBox(
        sample_token=token,
        translation=(float(centre[0]), float(centre[1]), 0.0),
        size=tuple(random.uniform(1, 4, 3)),
        rotation=tuple(quaternion_from_yaw(random.uniform(-4, 4))),
        velocity=tuple(random.choice([math.nan, 1.0, 3.0], 2)),
        ego_translation=(float(centre[0]) - 5.0, float(centre[1]), 0.0),
        detection_name=kind,
        detection_score=score,
        attribute_name=str(random.choice(["", "vehicle.moving", "vehicle.parked"])) if kind == "car" else "",
    )


def world(seed: int) -> tuple[EvalBoxes, EvalBoxes]:
    """Crowded frames: several detections an object, strays, equal scores, objects and frames without detections."""
    random = np.random.default_rng(seed)
    truth, found = EvalBoxes(), EvalBoxes()
    for token in TOKENS:
        objects, detections = [], []
        for kind in KINDS[: 3 + seed % 2]:
            for centre in random.uniform(-40, 40, (random.integers(0, 9), 2)):
                objects.append(box(random, token, kind, centre, -1.0))
                for _ in range(random.integers(0, 4)):
                    score = float(random.choice([0.2, 0.5, random.uniform(0.01, 1)]))
                    detections.append(box(random, token, kind, centre + random.normal(0, 1.5, 2), score))
            for centre in random.uniform(-40, 40, (random.integers(0, 6), 2)):
                detections.append(box(random, token, kind, centre, float(random.uniform(0, 0.6))))
        detections.append(box(random, token, "trailer", np.zeros(2), 0.5))  # a class without ground truth
        truth.add_boxes(token, objects)
        found.add_boxes(token, detections)
    return truth, found


def matches_of(truth: EvalBoxes, found: EvalBoxes, part: Any = None) -> dict[str, ClassMatches]:
    tables = [table_of(boxes, TOKENS) for boxes in (truth, found)]
    if part is not None:
        tables = [table.take(part(table)) for table in tables]
    return by_class(match(*tables, len(TOKENS)), SCENES)


def devkit(truth: EvalBoxes, found: EvalBoxes) -> dict[str, tuple[list[float], dict[str, float]]]:
    """AP by threshold, and errors, of each class; NaN and 1 as the protocol has them."""
    config = config_factory(PROTOCOL)
    scores = {}
    for name in CLASS_NAMES:
        data = [accumulate(truth, found, name, config.dist_fcn_callable, threshold) for threshold in THRESHOLDS]
        errors = {error: calc_tp(data[ERROR_THRESHOLD], config.min_recall, error) for error in ERROR_NAMES}
        scores[name] = ([calc_ap(entry, config.min_recall, config.min_precision) for entry in data], errors)
    return scores


def assert_same(matches: dict[str, ClassMatches], truth: EvalBoxes, found: EvalBoxes) -> None:
    ours, theirs = class_scores(matches), devkit(truth, found)
    for name in CLASS_NAMES:
        precisions, errors = theirs[name]
        assert [curve.average_precision for curve in ours[name].curves.values()] == pytest.approx(precisions, abs=1e-12)
        for error, value in ours[name].errors.items():
            if value is not None:
                assert value == pytest.approx(errors[error], abs=1e-6), (name, error)


@pytest.mark.parametrize("seed", range(6))
def test_curves_are_those_of_the_devkit(seed: int) -> None:
    truth, found = world(seed)
    assert_same(matches_of(truth, found), truth, found)


def test_parts_are_those_of_the_devkit_on_their_boxes() -> None:
    truth, found = world(7)
    for part in distance_bands((0.0, 20.0)).values():
        chosen = []
        for boxes in (truth, found):
            own = EvalBoxes()
            for token in TOKENS:
                rows = part(table_of(boxes, TOKENS).take(table_of(boxes, TOKENS).frame == TOKENS.index(token)))
                own.add_boxes(token, [entry for entry, keep in zip(boxes[token], rows, strict=True) if keep])
            chosen.append(own)
        assert_same(matches_of(truth, found, part), *chosen)


def test_scenes_count_by_their_weights() -> None:
    matches = matches_of(*world(1))
    for scene in range(3):
        alone = class_scores({name: own.of_scene(scene) for name, own in matches.items()})
        weighted = class_scores(matches, np.eye(3)[scene])
        for name in KINDS:
            assert weighted[name].average_precision == pytest.approx(alone[name].average_precision, abs=1e-12)
            for error, value in alone[name].errors.items():
                assert (weighted[name].errors[error] or 0.0) == pytest.approx(value or 0.0, abs=1e-9)
    plain, doubled = class_scores(matches), class_scores(matches, np.full(3, 2.0))
    assert doubled["car"].average_precision == pytest.approx(plain["car"].average_precision, abs=1e-9)


def test_a_curve_by_hand() -> None:
    """Hit, miss, hit; two of four objects found: precision 1 up to a quarter, 2/3 at a half, none beyond."""
    hits = Hits(np.zeros(3, int), np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.array([4]))
    curve = hits.curve()
    assert curve.precision[[10, 50, 51]] == pytest.approx([1.0, 2 / 3, 0.0])
    assert curve.score[[25, 50]] == pytest.approx([0.8, 0.7])
    assert (curve.recall_at(0.9), curve.recall_at(0.6), curve.recall_at(1.1)) == (0.24, 0.5, 0.0)


def test_packed_matches_give_the_same_scores() -> None:
    matches = matches_of(*world(2))
    again = {name: ClassMatches.unpacked(own.packed()) for name, own in matches.items()}
    for name, score in class_scores(again).items():
        wanted = class_scores(matches)[name]
        assert score.average_precision == pytest.approx(wanted.average_precision, abs=1e-3)
        assert score.errors == pytest.approx(wanted.errors, abs=2e-3)
        assert (again[name].scene == matches[name].scene).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("found", [3, 1, 2], "other than the"),
        ("found", [-1, 1, 1], "do not fit together"),
        ("scores", "!!!", "is damaged"),
        ("errors", "eJwDAAAAAAE=", "other than"),
        ("hits", 7, "is not text"),
    ],
)
def test_damaged_matches_are_refused(key: str, value: object, message: str) -> None:
    packed = matches_of(*world(2))["car"].packed()
    with pytest.raises(ValueError, match=message):
        ClassMatches.unpacked({**packed, key: value})
