"""The node's parameters: defaults, limits, and what the shipped file says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")

from rclpy.parameter import Parameter

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface.reference import parameter_table, write_into
from bevdistill_ros.node import parameters as rules
from bevdistill_ros.node.build import in_model_order

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "node" / "detector.param.yaml"
PAGE = ROOT / "docs" / "parameters.md"


@pytest.fixture
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def node_with(context: Any, **overrides: Any) -> Any:
    given = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
    return rclpy.create_node("parameters", context=context, parameter_overrides=given)


def test_defaults_are_those_of_the_dataclasses(context: Any) -> None:
    node = node_with(context)
    rules.declare(node)
    assert rules.read(node) == rules.DetectorParameters()


def test_overrides_reach_their_groups(context: Any) -> None:
    node = node_with(context, cameras=["a", "b"], sync__max_spread_ms=12.5, sync__reference_camera="b")
    rules.declare(node)
    read = rules.read(node)
    assert read.cameras == ("a", "b")
    assert read.sync.max_spread_ms == 12.5
    assert read.reference_camera == "b"


def test_every_parameter_is_described_and_every_number_limited(context: Any) -> None:
    node = node_with(context)
    rules.declare(node)
    for name, entry in rules.settings().items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description, name
        if isinstance(entry.default, float):
            assert descriptor.floating_point_range, name
        elif isinstance(entry.default, int) and not isinstance(entry.default, bool):
            assert descriptor.integer_range, name
        rules.check(name, entry.default)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"score_threshold": 1.5}, r"score_threshold must be a number with a decimal point in 0\.\.\.1: .*1\.5"),
        ({"score_threshold": 1}, r"score_threshold must be a number with a decimal point in 0\.\.\.1: .*'1'"),
        ({"max_detections": 0}, r"max_detections must be a whole number in 1\.\.\.10000"),
        ({"cameras": 5}, "cameras must be a list of names"),
    ],
)
def test_value_of_wrong_type_or_range_is_refused_at_start(context: Any, overrides: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        rules.declare(node_with(context, **overrides))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transport": "jpeg"}, "transport must be one of raw, compressed, but is 'jpeg'"),
        ({"sync.policy": "exact"}, "sync.policy must be one of anchor, approximate_time"),
        ({"sync.reference_camera": "TOP"}, "sync.reference_camera is 'TOP'.*CAM_FRONT"),
        ({"cameras": ["a", "a"]}, "cameras must be different names"),
        ({"cameras": []}, "cameras must be different names"),
        ({"cameras": ["a", ""]}, "cameras must be a list of names"),
        ({"cameras": ["front-left"]}, "front-left.*part of a topic"),
        ({"sync.policy": "approximate_time", "missing_camera": "blank"}, "complete sets only"),
        ({"intrinsics": "rig_file"}, "rig_file must name one"),
        ({"score_treshold": 0.5}, "unknown parameter score_treshold"),
        ({"score_threshold": float("nan")}, "score_threshold must be"),
        ({"autostart": 1}, "autostart must be true or false"),
        ({"max_detections": True}, "max_detections must be a whole number"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules.build(values)


def test_changes() -> None:
    threshold, transport = Parameter("score_threshold", value=0.5), Parameter("transport", value="raw")
    foreign = Parameter("use_sim_time", value=True)
    assert rules.check_change([threshold, foreign], is_running=True).successful
    assert rules.check_change([transport], is_running=False).successful
    refused = rules.check_change([threshold, transport], is_running=True)
    assert not refused.successful
    assert "transport cannot change while the node is configured" in refused.reason
    assert not rules.check_change([Parameter("transport", value="jpeg")], is_running=False).successful


def test_shipped_file_names_every_parameter_and_is_valid() -> None:
    content = yaml.safe_load(CONFIG.read_text())
    values = dict(_flat(content["/**"]["ros__parameters"]))
    rules.build(values)
    assert set(values) == set(rules.settings())


def test_page_holds_the_table_of_parameters() -> None:
    table = parameter_table()
    assert f"\n{table}\n" in PAGE.read_text(), "run python -m bevdistill_ros.interface.reference docs/parameters.md"
    assert "| `score_threshold` | double | `0.2` | 0...1 | yes | detections below this score" in table
    assert all(f"| `{name}` |" in table for name in rules.settings())


def test_table_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- parameters: x -->\n| old |\n<!-- parameters: end -->\n\nafter\n")
    write_into(page)
    expected = f"before\n\n<!-- parameters: x -->\n{parameter_table()}\n<!-- parameters: end -->\n\nafter\n"
    assert page.read_text() == expected
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"no lines '<!-- parameters: ... -->'"):
        write_into(page)


def test_misspelt_parameters_are_found(context: Any) -> None:
    node = node_with(context, score_treshold=0.5, sync__maxspread_ms=3.0, use_sim_time=True, score_threshold=0.3)
    rules.declare(node)
    assert sorted(rules.misspelt(node)) == [
        ("score_treshold", "score_threshold"),
        ("sync.maxspread_ms", "sync.max_spread_ms"),
    ]


def test_cameras_of_the_model_come_in_its_order() -> None:
    given = rules.build({"cameras": ["c", "a", "b"]})
    ordered = in_model_order(given, ("a", "b", "c"))
    assert ordered.cameras == ("a", "b", "c")
    assert ordered.reference_camera == "c"


def test_cameras_of_other_names_take_the_places_one_by_one() -> None:
    given = rules.build({"cameras": ["camera0", "camera1"]})
    assert in_model_order(given, ("a", "b")).cameras == ("camera0", "camera1")


@pytest.mark.parametrize(
    ("cameras", "message"), [(["a"], "names 1, but the bundle takes 2"), (["a", "x"], r"mixes names.*\(a\).*\(x\)")]
)
def test_cameras_that_do_not_fit_the_model_are_refused(cameras: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_model_order(rules.build({"cameras": cameras}), ("a", "b"))


def test_default_cameras_are_those_of_nuscenes() -> None:
    assert rules.DetectorParameters().cameras == NUSCENES_CAMERAS


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
