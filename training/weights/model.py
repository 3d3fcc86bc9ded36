"""Trained models, read back from checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bevdistill_ros.core.plain import dataclass_from, plain_from
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig, completed
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.student import CameraStudent, StudentSettings
from training.weights.checkpoint import load_weights, read_checkpoint, read_config, weights_in

Config = TypeVar("Config")
Model = TypeVar("Model", bound=nn.Module)


def load_student(path: Path | str) -> tuple[StudentSettings, CameraStudent]:
    """The student of a checkpoint, in eval mode, and its configuration.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or it holds no student.
    """
    public = read_config(read_checkpoint(path)).get("public")
    if public is None:
        config, model = load_model(path, "student", StudentConfig, BevFormer)
        return config, model.eval()
    public_config, public_model = load_model(path, "student", PublicStudentConfig, PublicBevFormer, section="public")
    return public_config, public_model.eval()


def load_model(
    path: Path | str, role: str, kind: type[Config], build: Callable[[Config], Model], *, section: str = ""
) -> tuple[Config, Model]:
    """The model of a checkpoint in its role, and its configuration.

    Args:
        path: The checkpoint.
        role: Of the model.
        kind: Of its configuration.
        build: Makes the model of its configuration.
        section: Where the checkpoint's settings hold that configuration; empty is under its role.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or it holds a model of another role.
    """
    content = read_checkpoint(path)
    settings = read_config(content)
    if settings["role"] != role:
        raise ValueError(f"{path} holds a {settings['role']}, but a {role} is needed here")
    section = section or role
    config = config_from(kind, settings[section], f"{section} in {path}")
    model = build(config)
    load_weights(model, weights_in(content), path)
    return config, model


def config_from(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """A model's configuration from plain values; settings that are younger than the values take their defaults."""
    given = completed(content) if kind is StudentConfig else content
    return dataclass_from(kind, {**plain_from(kind()), **given}, where)
