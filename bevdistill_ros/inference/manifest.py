"""The manifest of a bundle: what the weights are, so that they are never run as something else.

It is plain JSON. Reading it is strict: a missing or an unknown key is an error, as it means another version or a typing
error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.plain import check_keys, dataclass_from, plain_from, value_from
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.engine_files import EngineFiles
from bevdistill_ros.model.build import ARCHITECTURES, architecture_of
from bevdistill_ros.model.config import StudentConfig, completed
from bevdistill_ros.model.fit import FitPolicy
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.student import StudentSettings

FORMAT = "bevdistill bundle"
FORMAT_VERSION = 2  # 1, without an architecture, is read too
MAX_TEXT = 100  # characters of a name or version; they go into logs and messages
MAX_PIXELS = 100_000_000  # of all cameras together
MAX_CELLS = 1_000_000
LIMITS = {  # far beyond any sensible student, and far below what would fill a vehicle's memory
    "image_height": 10_000,
    "image_width": 10_000,
    "backbone_width": 512,
    "embed_dim": 4096,
    "num_heads": 64,
    "feedforward_dim": 65_536,
    "encoder_layers": 48,
    "num_heights": 32,
    "points_per_height": 32,
    "bev_points": 32,
    "decoder_layers": 48,
    "decoder_points": 32,
    "num_queries": 20_000,
}
_ADDED_IN_2 = {"backbone_style": "pytorch", "backbone_deformable_stages": []}  # what held before
KEYS = [
    "format",
    "format_version",
    "name",
    "version",
    "classes",
    "architecture",
    "student",
    "rig",
    "preprocessing",
    "weights",
    "provenance",
]
OPTIONAL_KEYS = {"engines": None}  # with what counts where they are absent


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about its weights."""

    name: str  # of the model, such as bevformer_r50_bevdistill
    version: str  # of the weights
    student: StudentSettings
    rig: CameraRig  # that the student was trained with, for images of the student's input size
    weights_file: str  # in the bundle's folder
    weights_sha256: str
    engines: EngineFiles | None = None  # exported networks; None where the bundle has none
    provenance: Mapping[str, Any]  # how the weights came to be, as the trainer reports it; plain JSON

    @property
    def grid(self) -> BevGrid:
        """The grid of the student."""
        return self.student.grid

    @property
    def least_parameters(self) -> int:
        """A number of parameters that the student has at least, from its largest layers; known without building it."""
        student = self.student
        samples = student.num_heads * student.num_levels * student.num_heights * student.points_per_height
        block = 4 * student.embed_dim + 2 * student.feedforward_dim  # projections and feed-forward of a layer
        encoder = student.encoder_layers * (block + 3 * samples)
        decoder = student.decoder_layers * (block + 3 * student.num_heads * student.decoder_points)
        return student.embed_dim * (encoder + decoder)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "version": self.version,
            "classes": list(CLASS_NAMES),
            "architecture": architecture_of(self.student),
            "student": plain_from(self.student),
            "rig": self.rig.to_dict(),
            "preprocessing": preprocessing_of(self.student),
            "weights": {"file": self.weights_file, "sha256": self.weights_sha256},
            "provenance": dict(self.provenance),
            **({"engines": self.engines.to_dict()} if self.engines else {}),
        }

    @classmethod
    def from_dict(cls, content: object) -> "Manifest":
        """Inverse of `to_dict`.

        Raises:
            ValueError: It is not a manifest of this format, or it is for other classes or another preprocessing.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"the manifest does not say it is a '{FORMAT}'")
        content = {**OPTIONAL_KEYS, **_current(content)}
        check_keys(content, [*KEYS, *OPTIONAL_KEYS], "manifest")
        check_keys(content["weights"], ["file", "sha256"], "manifest.weights")
        _check_equal("classes", content["classes"], list(CLASS_NAMES))
        student: StudentSettings = dataclass_from(
            _kind_of(content["architecture"]), content["student"], "manifest.student"
        )
        _check_equal("preprocessing", content["preprocessing"], preprocessing_of(student))
        _check_limits(student)
        return cls(
            name=_short_text(content["name"], "manifest.name"),
            version=_short_text(content["version"], "manifest.version"),
            student=student,
            rig=CameraRig.from_dict(content["rig"]),
            weights_file=value_from(str, content["weights"]["file"], "manifest.weights.file"),
            weights_sha256=value_from(str, content["weights"]["sha256"], "manifest.weights.sha256"),
            provenance=content["provenance"],
            engines=None if content["engines"] is None else EngineFiles.from_dict(content["engines"]),
        )


_RESIZE: dict[FitPolicy, str] = {
    "horizon": "to the width; keep the rows that show most of the road, else the whole image; add mean colour",
    "pad": "whole image inside of the input; add mean colour at the right and at the bottom",
    "top": "to the width; cut rows off the top, add black rows at the bottom",
}


def _current(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of this format version, of one of this or of an older version."""
    version = content.get("format_version")
    if version == FORMAT_VERSION:
        return content
    if version != 1:
        raise ValueError(
            f"the bundle has format version {version}, this program reads 1 to {FORMAT_VERSION}; export the checkpoint "
            "again"
        )
    student = content.get("student")
    if isinstance(student, dict):
        student = {**_ADDED_IN_2, **completed(student)}
    return {**content, "format_version": FORMAT_VERSION, "architecture": "bevdistill", "student": student}


def _kind_of(architecture: object) -> type[StudentConfig] | type[PublicStudentConfig]:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"manifest.architecture must be one of {', '.join(ARCHITECTURES)}, but is {architecture!r}")
    return ARCHITECTURES[str(architecture)]


def preprocessing_of(student: StudentSettings) -> dict[str, Any]:
    """What model.preprocess and the student do to an image."""
    return {
        "resize": _RESIZE[student.image_fit],
        "colour": "rgb",
        "mean": list(student.image_mean),
        "std": list(student.image_std),
    }


def _short_text(value: object, where: str) -> str:
    """A text that is safe in a log: one short line."""
    text = value_from(str, value, where)
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
        raise ValueError(f"{where} must be one line of 1...{MAX_TEXT} characters, but is {text[:MAX_TEXT]!r}")
    return str(text)


def _check_limits(student: StudentSettings) -> None:
    """Refuse a student that would fill the memory before its weights could be looked at."""
    for name, limit in LIMITS.items():
        if getattr(student, name) > limit:
            raise ValueError(f"manifest.student.{name} must be at most {limit}, but is {getattr(student, name):.4g}")
    pixels = len(student.cameras) * student.image_height * student.image_width
    cells = max(grid.rows * grid.cols for grid in (student.grid, student.bev_grid))
    for what, found, limit in (("pixels of all cameras", pixels, MAX_PIXELS), ("cells of the grid", cells, MAX_CELLS)):
        if found > limit:
            raise ValueError(f"the {what} must be at most {limit}, but the manifest has {found:.4g}")


def _check_equal(name: str, found: object, expected: object) -> None:
    if found != expected:
        raise ValueError(f"the bundle was made for other {name}: {found}; this program has {expected}")
