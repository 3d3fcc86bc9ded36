"""A bundle: a folder with a student's weights (safetensors, no pickle) and the manifest that belongs to them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bevdistill_ros.core.files import atomic_folder, read_text
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.core.text import quote
from bevdistill_ros.inference.engine_files import EngineFiles
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.model.build import build_student
from bevdistill_ros.model.student import CameraStudent, StudentSettings

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
FILE_SUFFIXES = (".json", ".onnx", ".safetensors")  # of the files in a bundle
MAX_MANIFEST_BYTES = 1_000_000
MAX_REASON = 400  # characters of a message that may quote the manifest
MAX_WEIGHTS_BYTES = 4_000_000_000
AddEngines = Callable[[Path, Manifest], EngineFiles]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A student with its weights, ready to run, and what is known about it."""

    manifest: Manifest
    student: CameraStudent  # in evaluation mode, on the CPU
    folder: Path | None = None  # where it was read from; None for one made in memory

    def stored_file(self, name: str, sha256: str) -> Path:
        """A file beside the weights, such as an exported network.

        Raises:
            ValueError: It is missing, lies outside of the folder, or is corrupt.
        """
        if self.folder is None:
            raise ValueError(f"bundle '{self.manifest.name}' was made in memory and has no file '{name}'")
        return _checked_file(self.folder, name, sha256, "file")


def save_bundle(
    path: Path | str,
    student: CameraStudent,
    *,
    name: str,
    version: str,
    rig: CameraRig,
    provenance: Mapping[str, Any],
    add_engines: AddEngines | None = None,
) -> Path:
    """Write a bundle; it appears whole or not at all.

    Args:
        path: The folder to make. A bundle that is there already is replaced.
        student: The student; its weights may be on any device.
        name: Name of the model.
        version: Version of the weights.
        rig: Camera rig of the training data, for images of the student's input size.
        provenance: How the weights came to be; plain JSON values.
        add_engines: Writes exported networks into the new folder, which holds the weights already; see
            `training.export.engines`.

    Returns:
        The folder.

    Raises:
        ValueError: The folder exists and is not a bundle, or holds other files beside one; the rig does not fit the
            student; or `provenance` is not plain JSON.
        OSError: The folder cannot be written.
    """
    path = Path(path)
    _check_replaceable(path)
    _check_rig(student.config, rig)
    with atomic_folder(path) as fresh:
        save_file({key: value.cpu().contiguous() for key, value in student.state_dict().items()}, fresh / WEIGHTS_FILE)
        manifest = Manifest(
            name=name,
            version=version,
            student=student.config,
            rig=rig,
            weights_file=WEIGHTS_FILE,
            weights_sha256=sha256_of(fresh / WEIGHTS_FILE),
            provenance=provenance,
        )
        if add_engines is not None:
            manifest = replace(manifest, engines=add_engines(fresh, manifest))
        (fresh / MANIFEST_FILE).write_text(_json_from(manifest), encoding="utf-8")
    return path


def load_bundle(path: Path | str) -> Bundle:
    """Read a bundle, or refuse it.

    Raises:
        ValueError: Anything is missing, damaged, or made for another program; the message says what.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    try:
        _check_rig(manifest.student, manifest.rig)
    except ValueError as error:
        raise ValueError(f"bundle '{path}' is refused: {error}") from error
    weights = _read_weights(path, manifest)
    _check_size(manifest, weights, path)
    student = build_student(manifest.student)
    _check_tensors(student.state_dict(), weights, path)
    student.load_state_dict(weights)
    return Bundle(manifest=manifest, student=student.eval(), folder=path)


def _read_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise ValueError(f"there is no bundle folder '{path}'; make one with 'bevdistill export'")
    file = path / MANIFEST_FILE
    if not file.exists():
        raise ValueError(f"'{path}' is not a bundle: it has no {MANIFEST_FILE}")
    _check_inside(path, file, "manifest")
    try:
        content = json.loads(read_text(file, what="manifest", max_bytes=MAX_MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST_FILE} of bundle '{path}' is not JSON: {error}") from error
    try:
        return Manifest.from_dict(content)
    except ValueError as error:
        raise ValueError(f"bundle '{path}' is refused: {str(error)[:MAX_REASON]}") from error


def _read_weights(path: Path, manifest: Manifest) -> dict[str, Tensor]:
    name = manifest.weights_file
    file = _checked_file(path, name, manifest.weights_sha256, "weights file")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"bundle '{path}' is refused: '{name}' is no safetensors file: {error}") from error


def _checked_file(path: Path, name: str, sha256: str, what: str) -> Path:
    """A file of the bundle that is there, of bearable size, and what the manifest says it is."""
    file = path / name
    if Path(name).name != name:
        raise ValueError(f"bundle '{path}' is refused: its {what} '{name}' lies outside its folder")
    _check_inside(path, file, what)
    if not file.is_file():
        raise ValueError(f"bundle '{path}' is refused: its {what} '{name}' is missing")
    if file.stat().st_size > MAX_WEIGHTS_BYTES:
        raise ValueError(f"bundle '{path}' is refused: '{name}' is larger than {MAX_WEIGHTS_BYTES / 1e9:g} GB")
    found = sha256_of(file)
    if found != sha256:
        raise ValueError(
            f"bundle '{path}' is refused: '{name}' is damaged or of another bundle; its SHA-256 is {found[:12]}…, "
            f"the manifest says {sha256[:12]}…"
        )
    return file


def _check_inside(path: Path, file: Path, what: str) -> None:
    """Refuse a file that a link leads out of the bundle."""
    if file.resolve().parent != path.resolve():
        raise ValueError(f"bundle '{path}' is refused: its {what} '{file.name}' lies outside its folder")


def _check_size(manifest: Manifest, weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a manifest whose student would be far larger than the weights, before memory is taken for it."""
    least, found = manifest.least_parameters, sum(value.numel() for value in weights.values())
    if least > found:
        raise ValueError(
            f"bundle '{path}' is refused: its manifest describes a model of at least {least / 1e6:.4g} million "
            f"parameters, but its weights are {found / 1e6:.4g} million"
        )


def _check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    other = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    faults = [
        f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})"
        for names, what in ((missing, "missing"), (extra, "too many"), (other, "of another shape"))
        if names
    ]
    if faults:
        raise ValueError(f"bundle '{path}' is refused: its weights are of another model: tensors {', '.join(faults)}")


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not (path / MANIFEST_FILE).is_file():
        raise ValueError(f"'{path}' exists and is not a bundle; it is left alone, choose another folder")
    foreign = sorted(file.name for file in path.iterdir() if not file.is_file() or file.suffix not in FILE_SUFFIXES)
    if foreign:
        raise ValueError(
            f"bundle '{path}' would be replaced, but it also holds {quote(foreign[0])}, which would be lost; "
            "move it away or choose another folder"
        )


def _check_rig(config: StudentSettings, rig: CameraRig) -> None:
    if rig.names != config.cameras or rig.image_size != (config.image_height, config.image_width):
        raise ValueError(
            f"the rig has cameras {', '.join(rig.names)} of {rig.image_size[1]}x{rig.image_size[0]}, the student "
            f"{', '.join(config.cameras)} of {config.image_width}x{config.image_height}"
        )


def _json_from(manifest: Manifest) -> str:
    try:
        return json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"the provenance of a bundle must be plain JSON: {error}") from error


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
