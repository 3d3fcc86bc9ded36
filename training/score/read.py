"""Reading `report.json` of `bevdistill score`, for gates and pages."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.score.by_class import ClassMatches
from training.score.check import check_shape
from training.score.schema import SCHEMA, WHOLE

MAX_BYTES = 500_000_000  # nuScenes' validation split takes some 20 MB


class Report:
    """What a report holds, checked where it is used.

    Args:
        path: The file, for messages.
        content: Of the file.

    Raises:
        ValueError: It is not such a report.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        schema = content.get("schema")
        if schema != SCHEMA:
            raise ValueError(
                f"report {path} is not of `bevdistill score` of this version: its schema is {schema!r}, not {SCHEMA}"
            )
        self.path, self.content = path, content
        self._matches: dict[tuple[str, str], dict[str, ClassMatches]] = {}
        try:
            check_shape(content)
        except ValueError as error:
            raise ValueError(f"report {path} is damaged: {error}") from error

    @property
    def frames(self) -> Mapping[str, Any]:
        """Columns of the frames."""
        frames: Mapping[str, Any] = self.content["frames"]
        return frames

    @property
    def results_path(self) -> Path:
        """The results file beside the report; a ValueError where the report points elsewhere."""
        folder = self.path.parent.resolve()
        path = (folder / str(self.content.get("results"))).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"report {self.path} is damaged: its results are not beside it")
        return path

    @cached_property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes, in the order of their numbers."""
        return tuple(sorted(set(map(str, self.frames["scene"]))))

    @cached_property
    def scene_of_frame(self) -> NDArray[np.int64]:
        """Number of the scene of each frame."""
        places = {name: place for place, name in enumerate(self.scenes)}
        return np.array([places[str(name)] for name in self.frames["scene"]], dtype=np.int64)

    @property
    def is_scored(self) -> bool:
        """Whether there was ground truth."""
        return WHOLE in self.content

    def parts(self, group: str) -> tuple[str, ...]:
        """Names of the parts of a group, bands or regions."""
        return tuple(self.content.get("matches", {}).get(group, {}))

    def matches(self, group: str = WHOLE, part: str = "") -> dict[str, ClassMatches]:
        """Matches of all classes, of the whole or a part; without rows for classes that the report leaves out.

        Raises:
            ValueError: They are damaged.
        """
        if (group, part) not in self._matches:
            packed = self.content["matches"][group]
            self._matches[group, part] = self._unpacked(packed[part] if part else packed)
        return self._matches[group, part]

    def _unpacked(self, packed: Mapping[str, Any]) -> dict[str, ClassMatches]:
        found = {}
        for name in CLASS_NAMES:
            try:
                own = ClassMatches.unpacked(packed[name]) if name in packed else ClassMatches.nothing(len(self.scenes))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"report {self.path} is damaged: matches of {name}: {error}") from error
            if len(own.truth) != len(self.scenes):
                raise ValueError(
                    f"report {self.path} is damaged: matches of {name} are of other scenes than its frames"
                )
            found[name] = own
        return found


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        ValueError: It can't be read, or is no report of `bevdistill score`.
    """
    return Report(path, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a ValueError where it can't be read."""
    try:
        content = json.loads(read_text(path, what="report", max_bytes=MAX_BYTES))
    except RecursionError as error:
        raise ValueError(f"report '{path}' is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"report '{path}' is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"report '{path}' is not a JSON object")
    return cast("dict[str, Any]", content)
