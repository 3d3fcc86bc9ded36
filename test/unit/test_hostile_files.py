"""Files that a parameter names, made to hang, fill or mislead the vehicle: each is refused with one clear line."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny_student import tiny_config

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference import bundle as bundle_module
from bevdistill_ros.inference.bundle import load_bundle, save_bundle
from bevdistill_ros.inference.manifest import LIMITS
from bevdistill_ros.inference.rig_file import load_rig
from bevdistill_ros.model.bevformer import BevFormer

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def rig() -> CameraRig:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    matrix = torch.tensor([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return CameraRig(names=("FRONT",), intrinsics=matrix[None], ego_from_camera=pose[None], image_size=(32, 64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good bundle."""
    config = tiny_config(cameras=("FRONT",))
    return save_bundle(tmp_path / "bundle", BevFormer(config), name="tiny", version="1", rig=rig(), provenance={})


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


class TestManifest:
    @pytest.mark.parametrize("name", LIMITS)
    def test_giant_setting_takes_no_memory(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "build_student", lambda config: pytest.fail("the student was built"))
        change(folder, lambda content: content["student"].update({name: 1024 * 1024 * 1024}))
        assert name in refusal(lambda: load_bundle(folder))

    @pytest.mark.parametrize("changes", [{"embed_dim": 4096}, {"feedforward_dim": 65536}, {"encoder_layers": 48}])
    def test_student_larger_than_its_weights_is_not_built(
        self, folder: Path, changes: dict[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundle_module, "build_student", lambda config: pytest.fail("the student was built"))
        change(folder, lambda content: content["student"].update({"embed_dim": 64, **changes}))
        assert "describes a model of at least" in refusal(lambda: load_bundle(folder))

    def test_many_cells_and_pixels(self, folder: Path) -> None:
        change(folder, lambda content: content["student"]["grid"].update(rows=10_000, cols=10_000))
        assert "cells of the grid must be at most 1000000" in refusal(lambda: load_bundle(folder))

    @pytest.mark.parametrize("name", ["two\nlines", "\x1b[2Jescape", "x" * 101, ""])
    def test_name_that_spoils_a_log(self, folder: Path, name: str) -> None:
        change(folder, lambda content: content.update(name=name))
        assert "manifest.name must be one line" in refusal(lambda: load_bundle(folder))

    def test_nesting_that_ends_the_stack(self, folder: Path) -> None:
        (folder / "manifest.json").write_text("[" * 200_000)
        assert "is not JSON" in refusal(lambda: load_bundle(folder))

    def test_endless_and_oversized(self, folder: Path) -> None:
        manifest = folder / "manifest.json"
        manifest.write_text(" " * 1_000_001)
        assert "larger than 1 MB" in refusal(lambda: load_bundle(folder))
        manifest.unlink()
        manifest.mkdir()
        assert "not an ordinary file" in refusal(lambda: load_bundle(folder))

    def test_link_out_of_the_folder(self, folder: Path) -> None:
        (folder / "manifest.json").rename(folder.parent / "secret.json")
        (folder / "manifest.json").symlink_to(folder.parent / "secret.json")
        assert "its manifest 'manifest.json' lies outside its folder" in refusal(lambda: load_bundle(folder))

    def test_folder_behind_a_link_is_fine(self, folder: Path) -> None:
        (folder.parent / "current").symlink_to(folder)
        assert load_bundle(folder.parent / "current").manifest.name == "tiny"

    @pytest.mark.parametrize("name", ["../weights.safetensors", "/dev/zero", "a/../weights.safetensors", ".", "\0"])
    def test_weights_by_a_path(self, folder: Path, name: str) -> None:
        change(folder, lambda content: content["weights"].update(file=name))
        refusal(lambda: load_bundle(folder))

    def test_weights_that_are_a_pipe(self, folder: Path) -> None:
        (folder / "weights.safetensors").unlink()
        os.mkfifo(folder / "weights.safetensors")
        assert "is missing" in refusal(lambda: load_bundle(folder))

    def test_weights_with_numbers_that_are_not_there(self, folder: Path) -> None:
        """A header that promises a terabyte in a file of a few bytes."""
        header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
        content = len(header).to_bytes(8, "little") + header
        (folder / "weights.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        change(folder, lambda manifest: manifest["weights"].update(sha256=digest))
        assert "is no safetensors file" in refusal(lambda: load_bundle(folder))

    def test_oversized_weights_are_not_read(self, folder: Path) -> None:
        with (folder / "weights.safetensors").open("wb") as stream:
            stream.truncate(5_000_000_000)  # a hole, it takes no disk
        assert "is larger than 4 GB" in refusal(lambda: load_bundle(folder))

    def test_a_pickle_is_not_run(self, folder: Path) -> None:
        torch.save({"weight": torch.zeros(1)}, folder / "weights.safetensors")
        digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        change(folder, lambda manifest: manifest["weights"].update(sha256=digest))
        assert "is no safetensors file" in refusal(lambda: load_bundle(folder))

    def test_rig_of_other_cameras(self, folder: Path) -> None:
        change(folder, lambda content: content["rig"]["cameras"].append({**content["rig"]["cameras"][0], "name": "B"}))
        assert "the rig has cameras FRONT, B" in refusal(lambda: load_bundle(folder))

    def test_tensors_beyond_the_student_are_refused(self, folder: Path) -> None:
        save_file({"other": torch.zeros(100_000)}, folder / "weights.safetensors")
        digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        change(folder, lambda manifest: manifest["weights"].update(sha256=digest))
        assert "its weights are of another model" in refusal(lambda: load_bundle(folder))


class TestRigFile:
    def rig_file(self, tmp_path: Path, text: str) -> Callable[[], object]:
        path = tmp_path / "rig.yaml"
        path.write_text(text)
        return lambda: load_rig(str(path))

    def test_python_objects_are_not_made(self, tmp_path: Path) -> None:
        evil = f"!!python/object/apply:os.mkdir ['{tmp_path}/made']"
        assert "cannot be read as YAML" in refusal(self.rig_file(tmp_path, evil))
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize("place", ["intrinsics", "ego_from_camera", "name"])
    def test_a_billion_numbers_out_of_ten_lines(self, tmp_path: Path, place: str) -> None:
        camera = {"name": "A", "intrinsics": "[]", "ego_from_camera": "[]", place: "*i"}
        entry = ", ".join(f"{key}: {value}" for key, value in camera.items())
        refusal(self.rig_file(tmp_path, f"{LAUGHS}image_size: [1, 1]\ncameras: [{{{entry}}}]\n"))

    def test_a_billion_cameras_out_of_ten_lines(self, tmp_path: Path) -> None:
        camera = json.dumps(rig().to_dict()["cameras"])
        for text in ("image_size: [1, 1]\ncameras: *i\n", f"image_size: *i\ncameras: {camera}\n"):
            refusal(self.rig_file(tmp_path, LAUGHS + text))

    def test_nesting_that_ends_the_stack(self, tmp_path: Path) -> None:
        assert "cannot be read as YAML" in refusal(self.rig_file(tmp_path, "[" * 5_000))
        assert "has a value that does not fit its tag" in refusal(self.rig_file(tmp_path, "a: !!timestamp 99"))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("image_size", [900]),
            ("image_size", [0, 5]),
            ("image_size", ["900", "1600"]),
            ("image_size", [10**9, 10**9]),
            ("cameras", []),
            ("cameras", {}),
            ("cameras", [1]),
        ],
    )
    def test_misshapen(self, tmp_path: Path, field: str, value: object) -> None:
        assert "rig description" in refusal(self.rig_file(tmp_path, yaml.safe_dump({**rig().to_dict(), field: value})))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "a\nb"),
            ("name", 5),
            ("intrinsics", [[1.0, 0.0, 0.0]]),
            ("intrinsics", np.eye(4).tolist()),
            ("ego_from_camera", np.eye(3).tolist()),
            ("ego_from_camera", [["1"] * 4] * 4),
            ("ego_from_camera", [[10**400] * 4] * 4),
            ("ego_from_camera", [[float("nan")] * 4] * 4),
        ],
    )
    def test_misshapen_camera(self, tmp_path: Path, field: str, value: object) -> None:
        content = rig().to_dict()
        content["cameras"][0][field] = value
        message = refusal(self.rig_file(tmp_path, yaml.safe_dump(content)))
        assert field in message or "too large" in message

    def test_camera_named_twice(self, tmp_path: Path) -> None:
        content = rig().to_dict()
        content["cameras"] *= 2
        assert "names a camera twice: FRONT, FRONT" in refusal(self.rig_file(tmp_path, yaml.safe_dump(content)))


class TestReadText:
    def test_ordinary_file_behind_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("hällo")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        assert read_text(tmp_path / "b", what="note", max_bytes=6) == "hällo"

    def test_size_is_of_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("hällo")
        assert "larger than" in refusal(lambda: read_text(tmp_path / "a", what="note", max_bytes=5))

    @pytest.mark.parametrize("path", ["/dev/zero", "/", "/proc/self/mem-not-there", "x\0y"])
    def test_what_is_no_file(self, path: str) -> None:
        refusal(lambda: read_text(path, what="note", max_bytes=100))

    def test_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        messages: list[str] = []
        reader = threading.Thread(
            target=lambda: messages.append(refusal(lambda: read_text(tmp_path / "pipe", what="note", max_bytes=100))),
            daemon=True,
        )
        reader.start()
        reader.join(20)
        assert messages
        assert "is not an ordinary file" in messages[0]

    def test_link_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        refusal(lambda: read_text(tmp_path / "a", what="note", max_bytes=100))

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"\xff\xfe")
        assert "is not text" in refusal(lambda: read_text(tmp_path / "a", what="note", max_bytes=100))
