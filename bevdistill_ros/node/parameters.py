"""The parameters of interface/parameters.py on a ROS node: declared, read, and checked when they change."""

from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from bevdistill_ros.interface.parameters import DetectorParameters, allowed, build, check, settings


def declare(node: Node) -> None:
    """Declare all parameters on a node.

    Raises:
        ValueError: One was given a value that it may not have.
    """
    for name, entry in settings().items():
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        try:
            node.declare_parameter(name, default, _descriptor(entry))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ValueError(f"parameter {name} must be {allowed(entry)}: {error}") from error


def misspelt(node: Node) -> list[tuple[str, str]]:
    """Parameters that were given to a node and are none of its own, each with the nearest that is."""
    known = list(settings())
    # rclpy has no public name for what was given but never declared.
    given = [name for name in getattr(node, "_parameter_overrides", {}) if not node.has_parameter(name)]
    return [(name, get_close_matches(name, known, n=1, cutoff=0.0)[0]) for name in given if not _is_foreign(name)]


def read(node: Node) -> DetectorParameters:
    """The values that the parameters have now.

    Raises:
        ValueError: One has a value that it may not have, or two do not fit each other.
    """
    return build({name: node.get_parameter(name).value for name in settings()})


def check_change(parameters: list[Parameter[Any]], *, is_running: bool) -> SetParametersResult:
    """Whether the node's parameters may change so.

    Args:
        parameters: The wanted values; those that are not ours are left to their owners.
        is_running: Whether the node is configured, so that only live ones may change.
    """
    known = settings()
    for parameter in parameters:
        if parameter.name not in known:
            continue
        try:
            check(parameter.name, parameter.value)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if is_running and not known[parameter.name].metadata["live"]:
            reason = (
                f"parameter {parameter.name} cannot change while the node is configured; deactivate and clean up first"
            )
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def _is_foreign(name: str) -> bool:
    """Whether a parameter is one of rclpy's own, which it may declare later."""
    return name.startswith("qos_overrides.") or name in ("use_sim_time", "start_type_description_service")


def _descriptor(entry: Any) -> ParameterDescriptor:
    limits = entry.metadata
    descriptor = ParameterDescriptor(description=limits["description"])
    if limits["choices"]:
        descriptor.additional_constraints = allowed(entry)
    if limits["low"] is not None and isinstance(entry.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=limits["low"], to_value=limits["high"], step=0.0)
        ]
    elif limits["low"] is not None:
        descriptor.integer_range = [IntegerRange(from_value=limits["low"], to_value=limits["high"], step=1)]
    return descriptor
