import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bevdistill_ros.model.config import StudentConfig
from training.run.config import TrainConfig
from training.teacher.load import load_teacher, sweeps_of_teacher
from training.weights.checkpoint import (
    CONFIG_KEY,
    config_text,
    load_weights,
    read_checkpoint,
    read_config,
    read_weights,
    shrink,
)
from training.weights.model import config_from, load_student


class Unpickled:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "code ran")


def test_configuration_survives(make_run: Callable[..., TrainConfig], tiny_teacher: Path) -> None:
    saved = read_config(read_checkpoint(tiny_teacher))
    expected = json.loads(config_text(make_run(tiny_teacher.parent, role="teacher")))
    assert saved == expected
    assert saved["data"]["root"] == expected["data"]["root"]
    assert sweeps_of_teacher(tiny_teacher) == 1


def test_checkpoint_holds_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({CONFIG_KEY: "{}", "state_dict": {}, "extra": Unpickled(tmp_path / "proof")}, path)
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "proof").exists()


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at .*none\.ckpt; train one"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.7])
def test_cut_checkpoint_is_refused(tiny_student: Path, tmp_path: Path, suffix: str, kept: float) -> None:
    whole = tiny_student
    if suffix == "safetensors":
        whole = tmp_path / "whole.safetensors"
        shrink(tiny_student, whole)
    content = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="is damaged or no checkpoint") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_file_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("other.ckpt", "list.ckpt", "other.safetensors"):
        with pytest.raises(ValueError, match="is not a checkpoint of bevdistill"):
            read_checkpoint(tmp_path / name)


def test_shrunk_checkpoint_is_the_same_model_in_half_precision(tiny_student: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    shrink(tiny_student, path)
    assert path.stat().st_size < 0.3 * tiny_student.stat().st_size  # no optimiser, half the bytes a weight
    assert read_config(read_checkpoint(path)) == read_config(read_checkpoint(tiny_student))
    full, small = read_weights(tiny_student), read_weights(path)
    assert small.keys() == full.keys()
    for name, value in full.items():
        if value.is_floating_point():
            assert torch.equal(small[name], value.half())
        else:
            assert torch.equal(small[name], value)
    config, student = load_student(path)
    assert config == load_student(tiny_student)[0]
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())


def test_roles_are_told_apart(tiny_student: Path, tiny_teacher: Path) -> None:
    with pytest.raises(ValueError, match="holds a teacher, but a student is needed"):
        load_student(tiny_teacher)
    with pytest.raises(ValueError, match="holds a student, but a teacher is needed"):
        load_teacher(tiny_student)


def test_weights_of_another_architecture_are_described() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = model.state_dict()
    weights["0.weight"] = torch.zeros(4, 2)
    weights["new"] = torch.zeros(1)
    del weights["1.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="another architecture") as error:
        load_weights(model, weights, "file.ckpt")
    for part in ("file.ckpt", "missing (first: 1.bias)", "unknown (first: new)", "0.weight, (4, 2) instead of (3, 2)"):
        assert part in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_setting_younger_than_a_checkpoint_takes_its_default() -> None:
    content = {"num_queries": 7}
    assert config_from(StudentConfig, content, "student") == StudentConfig(num_queries=7, image_fit="top")
    with pytest.raises(ValueError, match="student has an unknown key 'num_querys'"):
        config_from(StudentConfig, {"num_querys": 7}, "student")
