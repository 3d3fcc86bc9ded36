"""The SROS 2 policy allows what the node really does, and nothing more."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.parameter import Parameter
from tiny_student import tiny_config

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import load_bundle, save_bundle
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.node.detector_node import DetectorNode
from bevdistill_ros.node.tf import HAS_TF2

POLICY = Path(__file__).parents[2] / "config" / "security" / "detector.policy.xml"
PATH = "/bevdistill_detector"

Interface = dict[str, set[str]]  # "publish", "subscribe", "reply", "request": names


def allowed() -> Interface:
    """What the policy allows, by full names."""
    (profile,) = ElementTree.parse(POLICY).getroot().findall("enclaves/enclave/profiles/profile")
    node = f"{profile.get('ns', '').rstrip('/')}/{profile.get('node')}"
    found: Interface = {"publish": set(), "subscribe": set(), "reply": set(), "request": set()}
    for group in profile:
        for rule, verdict in group.attrib.items():
            assert verdict == "ALLOW"
            names = [(entry.text or "").replace("~", node) for entry in group]
            assert len(set(names)) == len(names), "a name stands there twice"
            found[rule] |= set(names)
    return found


def interface_of(node: Any) -> Interface:
    """What a node really has."""
    me, space = node.get_name(), node.get_namespace()
    return {
        "publish": {name for name, _ in node.get_publisher_names_and_types_by_node(me, space)},
        "subscribe": {name for name, _ in node.get_subscriber_names_and_types_by_node(me, space)},
        "reply": {name for name, _ in node.get_service_names_and_types_by_node(me, space)},
        "request": {name for name, _ in node.get_client_names_and_types_by_node(me, space)},
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    poses = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    poses[:, :3, :3] = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    matrix = torch.tensor([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rig = CameraRig(
        names=NUSCENES_CAMERAS, intrinsics=matrix.repeat(6, 1, 1), ego_from_camera=poses, image_size=(32, 64)
    )
    config = tiny_config()
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return save_bundle(folder, BevFormer(config), name="tiny", version="1", rig=rig, provenance={})


@pytest.fixture
def active_node(bundle: Path, tmp_path: Path) -> Iterator[Any]:
    """The node as it is shipped, at work."""
    values = {"bundle": str(bundle), "device": "cpu"}
    if not HAS_TF2:
        rig_file = tmp_path / "rig.yaml"
        rig_file.write_text(yaml.safe_dump(load_bundle(bundle).manifest.rig.to_dict()))
        values["rig_file"] = str(rig_file)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = DetectorNode(
        context=context, parameter_overrides=[Parameter(name, value=text) for name, text in values.items()]
    )
    node.start()
    assert node._state_machine.current_state[1] == "active"
    yield node
    node.close()
    node.destroy_node()
    context.try_shutdown()


def test_everything_is_allowed_and_nothing_more(active_node: Any) -> None:
    has, may = interface_of(active_node), allowed()
    for rule in has:
        assert has[rule] - may[rule] == set(), f"the policy does not let the node {rule} these"
    optional = {"/clock"}  # with use_sim_time
    optional |= set() if HAS_TF2 else {"/tf", "/tf_static"}
    vision = importlib.util.find_spec("vision_msgs") is not None
    optional |= set() if vision else {f"{PATH}/output/vision_detections"}
    for rule in may:
        assert may[rule] - has[rule] - optional == set(), f"the policy lets the node {rule} these, which it does not"


def test_policy_is_of_the_node_that_is_launched() -> None:
    (enclave,) = ElementTree.parse(POLICY).getroot().findall("enclaves/enclave")
    (profile,) = enclave.findall("profiles/profile")
    assert ElementTree.parse(POLICY).getroot().get("version") == "0.2.0"
    assert enclave.get("path") == PATH
    assert (profile.get("ns"), profile.get("node")) == ("/", PATH[1:])
