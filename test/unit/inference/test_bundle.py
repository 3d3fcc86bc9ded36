import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.plain import dataclass_from, plain_from
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference import bundle as bundle_module
from bevdistill_ros.inference.bundle import load_bundle, save_bundle
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig


@pytest.fixture
def folder(tmp_path: Path, make_student: Callable[..., BevFormer], rig: CameraRig) -> Path:
    """A good bundle."""
    return save_bundle(
        tmp_path / "bundle", make_student(), name="tiny", version="3", rig=rig, provenance={"steps": 7, "data": "synth"}
    )


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the manifest."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Edit the tensors, and the manifest's hash with them."""
    file = folder / "weights.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    change(folder, lambda content: content["weights"].update(sha256=digest))


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_what_is_saved_is_what_is_loaded(folder: Path, make_student: Callable[..., BevFormer], rig: CameraRig) -> None:
    bundle, student = load_bundle(folder), make_student()
    manifest = bundle.manifest
    assert (manifest.name, manifest.version) == ("tiny", "3")
    assert manifest.student == student.config
    assert manifest.grid == student.config.grid
    assert manifest.provenance == {"steps": 7, "data": "synth"}
    assert manifest.rig.names == rig.names
    assert torch.equal(manifest.rig.intrinsics, rig.intrinsics)
    assert torch.equal(manifest.rig.ego_from_camera, rig.ego_from_camera)
    assert not bundle.student.training
    expected = student.state_dict()
    found = bundle.student.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_bundle_holds_nothing_else(folder: Path) -> None:
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "weights.safetensors"]
    assert [entry.name for entry in folder.parent.iterdir()] == ["bundle"]


def test_a_bundle_is_replaced(folder: Path, make_student: Callable[..., BevFormer], rig: CameraRig) -> None:
    save_bundle(folder, make_student(num_queries=5), name="other", version="4", rig=rig, provenance={})
    assert load_bundle(folder).manifest.student.num_queries == 5
    assert [entry.name for entry in folder.parent.iterdir()] == ["bundle"]


def test_a_failed_save_leaves_the_old_bundle(
    folder: Path, make_student: Callable[..., BevFormer], rig: CameraRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bundle_module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(folder, make_student(num_queries=5), name="other", version="4", rig=rig, provenance={})
    assert load_bundle(folder).manifest.name == "tiny"
    assert [entry.name for entry in folder.parent.iterdir()] == ["bundle"]


def test_another_folder_is_never_replaced(
    tmp_path: Path, make_student: Callable[..., BevFormer], rig: CameraRig
) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="exists and is not a bundle"):
        save_bundle(tmp_path, make_student(), name="tiny", version="1", rig=rig, provenance={})
    assert (tmp_path / "holiday.jpg").exists()


def test_a_bundle_that_also_holds_other_files_is_left_alone(
    tmp_path: Path, make_student: Callable[..., BevFormer], rig: CameraRig
) -> None:
    def save() -> None:
        save_bundle(tmp_path / "b", make_student(), name="tiny", version="1", rig=rig, provenance={})

    save()
    save()  # a bundle alone is replaced
    (tmp_path / "b" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"also holds 'notes\.txt', which would be lost"):
        save()
    assert (tmp_path / "b" / "notes.txt").exists()
    (tmp_path / "b" / "notes.txt").unlink()
    (tmp_path / "b" / "pictures.json").mkdir()
    with pytest.raises(ValueError, match=r"also holds 'pictures\.json'"):
        save()


def test_the_rig_must_be_that_of_the_student(
    tmp_path: Path, make_student: Callable[..., BevFormer], rig: CameraRig
) -> None:
    with pytest.raises(ValueError, match="cameras BACK, FRONT"):
        save_bundle(
            tmp_path / "b", make_student(), name="t", version="1", rig=rig.select(["BACK", "FRONT"]), provenance={}
        )


def test_provenance_must_be_plain(tmp_path: Path, make_student: Callable[..., BevFormer], rig: CameraRig) -> None:
    with pytest.raises(ValueError, match="plain JSON"):
        save_bundle(
            tmp_path / "b", make_student(), name="t", version="1", rig=rig, provenance={"path": Path("somewhere")}
        )
    assert list(tmp_path.iterdir()) == []


class TestRefusals:
    def test_no_folder(self, tmp_path: Path) -> None:
        assert "there is no bundle folder" in refusal(tmp_path / "nowhere")

    def test_no_manifest(self, folder: Path) -> None:
        (folder / "manifest.json").unlink()
        assert "it has no manifest.json" in refusal(folder)

    @pytest.mark.parametrize("text", ["{", "\x80", ""])
    def test_manifest_that_is_not_json(self, folder: Path, text: str) -> None:
        (folder / "manifest.json").write_bytes(text.encode("latin-1"))
        assert "is not JSON" in refusal(folder)

    @pytest.mark.parametrize("content", [[], {"format": "other"}, 5])
    def test_manifest_of_something_else(self, folder: Path, content: object) -> None:
        (folder / "manifest.json").write_text(json.dumps(content))
        assert "does not say it is a 'bevdistill bundle'" in refusal(folder)

    def test_another_format_version(self, folder: Path) -> None:
        change(folder, lambda content: content.update(format_version=3))
        assert "format version 3, this program reads 1 to 2" in refusal(folder)

    def test_classes_in_another_order(self, folder: Path) -> None:
        change(folder, lambda content: content.update(classes=sorted(CLASS_NAMES)))
        assert "other classes" in refusal(folder)

    def test_another_preprocessing(self, folder: Path) -> None:
        change(folder, lambda content: content["preprocessing"].update(colour="bgr"))
        assert "other preprocessing" in refusal(folder)

    def test_an_unknown_setting_names_the_nearest(self, folder: Path) -> None:
        def misspell(content: dict[str, Any]) -> None:
            content["student"]["num_querys"] = content["student"].pop("num_queries")

        change(folder, misspell)
        assert "unknown key 'num_querys'; did you mean 'num_queries'?" in refusal(folder)

    def test_a_missing_setting(self, folder: Path) -> None:
        change(folder, lambda content: content["student"]["grid"].pop("z_max"))
        assert "manifest.student.grid lacks z_max" in refusal(folder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("num_queries", 5.0), ("temporal", 1), ("backbone", "vgg"), ("cameras", "FRONT"), ("cameras", ["A", 5])],
    )
    def test_a_setting_of_another_type(self, folder: Path, name: str, value: object) -> None:
        change(folder, lambda content: content["student"].update({name: value}))
        assert f"manifest.student.{name}" in refusal(folder)

    def test_a_missing_entry(self, folder: Path) -> None:
        change(folder, lambda content: content.pop("rig"))
        assert "manifest lacks rig" in refusal(folder)

    def test_a_broken_rig(self, folder: Path) -> None:
        change(folder, lambda content: content["rig"].pop("image_size"))
        assert "image_size" in refusal(folder)

    def test_no_weights(self, folder: Path) -> None:
        (folder / "weights.safetensors").unlink()
        assert "is missing" in refusal(folder)

    def test_damaged_weights(self, folder: Path) -> None:
        file = folder / "weights.safetensors"
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
        assert "damaged or of another bundle" in refusal(folder)

    def test_weights_that_are_no_safetensors(self, folder: Path) -> None:
        content = b"\x80\x04 a pickle"
        (folder / "weights.safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        change(folder, lambda manifest: manifest["weights"].update(sha256=digest))
        assert "is no safetensors file" in refusal(folder)

    @pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/hosts", "..", "", "a/b"])
    def test_weights_outside_the_folder(self, folder: Path, name: str) -> None:
        (folder.parent / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
        change(folder, lambda content: content["weights"].update(file=name))
        assert "lies outside its folder" in refusal(folder)

    def test_weights_behind_a_link(self, folder: Path) -> None:
        outside = folder.parent / "elsewhere.safetensors"
        (folder / "weights.safetensors").rename(outside)
        (folder / "weights.safetensors").symlink_to(outside)
        assert "lies outside its folder" in refusal(folder)

    def test_weights_of_another_model(self, folder: Path) -> None:
        def replace(tensors: dict[str, torch.Tensor]) -> None:
            del tensors["decoder.selection.content"]
            tensors["distiller.weight"] = torch.zeros(3)
            tensors["decoder.selection.reference"] = torch.zeros(4, 3)

        change_weights(folder, replace)
        message = refusal(folder)
        assert "1 missing (decoder.selection.content)" in message
        assert "1 too many (distiller.weight)" in message
        assert "1 of another shape (decoder.selection.reference (4, 3) instead of (20, 3))" in message


def test_settings_survive_json() -> None:
    config = StudentConfig(cameras=("A", "B"), dropout=0.0)
    again = dataclass_from(StudentConfig, json.loads(json.dumps(plain_from(config))), "student")
    assert again == config
    assert isinstance(again.cameras, tuple)


def test_a_whole_number_may_stand_for_a_real_one() -> None:
    content = plain_from(StudentConfig()) | {"dropout": 0}
    assert dataclass_from(StudentConfig, content, "student").dropout == 0.0
