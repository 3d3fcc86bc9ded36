"""The parameters that the node has, or is going to have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bevdistill_ros.core.files import read_text
from bevdistill_ros.doctor.live.graph import Graph
from bevdistill_ros.interface.parameters import DetectorParameters, build, settings

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 5  # of nested parameters; aliases in YAML could make it endless


def parameters_of_file(path: Path) -> DetectorParameters:
    """Parameters that a parameter file gives to the node; what it does not name has its default.

    Raises:
        ValueError: The file cannot be read, is not a parameter file, or holds a value that the node refuses.
    """
    try:
        content = yaml.safe_load(read_text(path, what="parameter file", max_bytes=MAX_FILE_BYTES))
    except (yaml.YAMLError, RecursionError, AttributeError, TypeError) as error:
        raise ValueError(f"parameter file '{path}' is not YAML: {error}") from error
    groups = [node.get("ros__parameters") for node in _values(content) if isinstance(node, Mapping)]
    if not any(isinstance(group, Mapping) for group in groups):
        raise ValueError(f"parameter file '{path}' has no ros__parameters")
    values: dict[str, Any] = {}
    for group in groups:
        values.update(_flat(group if isinstance(group, Mapping) else {}))
    return _build(values)


def parameters_of_node(graph: Graph, name: str) -> DetectorParameters | None:
    """Parameters of a running node; None where it does not answer."""
    values = graph.parameters(name, list(settings()))
    return _build(values) if values else None


def _build(values: Mapping[str, Any]) -> DetectorParameters:
    return build({name: value for name, value in values.items() if name in settings() and value is not None})


def _values(content: Any) -> list[Any]:
    return list(content.values()) if isinstance(content, Mapping) else []


def _flat(group: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested parameters by their full names."""
    if depth > MAX_DEPTH:
        raise ValueError(f"parameters are nested deeper than {MAX_DEPTH} times, at {prefix}")
    flat: dict[str, Any] = {}
    for name, value in group.items():
        key = f"{prefix}{name}"
        flat.update(_flat(value, f"{key}.", depth + 1) if isinstance(value, Mapping) else {key: value})
    return flat
