"""Whether a run may be resumed: what its checkpoint was trained with against what is asked."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from bevdistill_ros.model.config import completed
from training.distill.build import METHODS, parts_of, shares_of
from training.run.callbacks import LAST
from training.run.config import TrainConfig
from training.weights.checkpoint import config_text, read_checkpoint, read_config, step_of

_LOG = logging.getLogger(__name__)

# What neither the data of a step nor its losses depend on; data may have moved.
_FREE = {
    *("data.root", "data.cache_dir", "data.val_split"),
    *(f"run.{name}" for name in ("output", "resume", "checkpoint_every", "log_every", "balance_every", "progress")),
    *(f"run.{name}" for name in ("teacher_cache", "num_workers", "accelerator", "threads")),
    *(f"run.{name}" for name in ("recompute_activations", "channels_last")),
}

# Settings whose default has changed, with the first one. It is what a run had that does not name the setting, and what
# counts as the default in a fingerprint, so that runs before and after the change differ.
_FIRST_DEFAULTS = {
    "distill.share": 0.5,
    "distill.bevdistill_sparse.emphasis": 1.0,
    "distill.bevdistill_dense.teacher_adapter": "norm",
    "distill.bevdistill_dense.student_adapter": "conv",
    "distill.bevdistill_sparse.box_term": True,
}

_PER_STEP = ("optim.accumulate", "optim.batch_size", "run.devices", "run.num_nodes")  # their product: samples per step


def first_step(config: TrainConfig, output: Path) -> int:
    """Step to resume from; 0 for a new run."""
    last = output / LAST
    if not config.run.resume:
        if last.exists():
            raise ValueError(
                f"{output} already holds a run; set run.resume to true to resume it, or choose another run.output"
            )
        return 0
    if not last.exists():
        _LOG.info("nothing to resume in %s: starting from step 0", output)
        return 0
    content = read_checkpoint(last)
    done = step_of(content, last)
    if config.optim.steps < done:
        raise ValueError(f"{last} has {done} steps already, more than optim.steps, {config.optim.steps}; raise it")
    _check_same(read_config(content), json.loads(config_text(config)), last)
    return done


def _check_same(saved: Mapping[str, Any], wanted: Mapping[str, Any], last: Path) -> None:
    """Refuse to resume with other settings than those of the checkpoint, unless they leave the samples as they are."""
    different = set(differences(saved, wanted))
    before, now = (samples_per_step(settings) for settings in (saved, wanted))
    if different & set(_PER_STEP) and before == now:
        _LOG.info(
            "resuming with the same %d samples per step, divided otherwise among devices and batches; dropout and "
            "batch statistics differ from an uninterrupted run's",
            now,
        )
        different -= set(_PER_STEP)
    if "optim.steps" in different and wanted["optim"]["schedule"] != "one_cycle":
        different -= {"optim.steps"}
        if wanted["optim"]["schedule"] != "constant":
            _LOG.warning(
                "the learning rate follows the schedule of %d steps from here on, before that of %d",
                *(wanted["optim"]["steps"], _value(saved, "optim.steps")),
            )
    if different:
        name = min(different)
        values = f"{_value(saved, name)}, not {_value(wanted, name)}"
        if name in _PER_STEP:
            values += f" ({before} samples per step, not {now})"
        raise ValueError(
            f"{last} was trained with {name} {values}; resume with the configuration in {last.parent}/config.json, or "
            f"start a new run from its weights: set run.initial_weights to {last} and another run.output"
        )


def samples_per_step(settings: Mapping[str, Any]) -> int:
    """Samples of an optimiser step on all devices, by a run's settings."""
    return math.prod(int(_value(settings, name)) for name in _PER_STEP)


def _value(settings: Mapping[str, Any], name: str) -> Any:
    """A setting by its name with dots; of settings from before it was there, its default."""
    found: Any = _filled(settings, json.loads(config_text(TrainConfig())))
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names, as `distill.fitnet.weight`, of the settings on which a run's losses depend and that are not the same.

    Args:
        saved: Configuration of a run, as JSON has it. A setting that is younger than it counts as at its first default.
        wanted: The same of another one, or of its continuation. A setting that is gone by now is not looked at.
    """
    if isinstance(saved.get("student"), dict):
        saved = {**saved, "student": completed(saved["student"])}
    saved = _filled(saved, _first_defaults())
    idle = tuple(set(_idle(saved)) & set(_idle(wanted)))
    return sorted(name for name in _unequal(saved, wanted) if name not in _FREE and not name.startswith(idle))


def fingerprint(config: TrainConfig, *others: str) -> str:
    """SHA-256 of the settings on which a run's losses depend, and of other texts.

    Settings at their default count as absent, so that younger ones leave it as it is; the path of a teacher is left
    out, as its weights are what matters, and so are settings that do nothing in this run.
    """
    wanted = json.loads(config_text(config))
    if config.role == "student":
        wanted["distill"]["inherit"] = "decoder" if config.inherits_decoder else "auto"
    names = sorted(set(_unequal(_first_defaults(), wanted)) - _FREE - {"teacher_checkpoint"})
    names = [name for name in names if not name.startswith(_idle(wanted))]
    if not shares_of(config.distill):  # all weights are fixed
        names = [name for name in names if not _is_of_balance(name)]
    return hashlib.sha256(json.dumps([*([name, _value(wanted, name)] for name in names), *others]).encode()).hexdigest()


def _is_of_balance(name: str) -> bool:
    """Whether a setting matters to terms of weight auto only."""
    return name in ("distill.share", "distill.balance", "distill.balance_every") or name.endswith(".emphasis")


def _first_defaults() -> dict[str, Any]:
    """A configuration in which each setting has its first default."""
    defaults: dict[str, Any] = json.loads(config_text(TrainConfig()))
    for name, value in _FIRST_DEFAULTS.items():
        *parents, last = name.split(".")
        reduce(getitem, parents, defaults)[last] = value
    return defaults


def _idle(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """How the names of settings start that do nothing in a run: of teaching without a teacher, of other methods."""
    role, method, inherit = (_value(settings, name) for name in ("role", "distill.method", "distill.inherit"))
    if role != "student" or (method == "none" and inherit != "decoder"):
        return ("distill.", "mmdet3d.")
    parts = parts_of(str(method))  # of a damaged file, anything
    return tuple(f"distill.{name}." for name in METHODS if name not in parts)


def _filled(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: _filled(value, defaults[name]) if _are_dicts(value, defaults.get(name)) else value
        for name, value in content.items()
    }
    return {**defaults, **given}


def _unequal(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in now.keys() & before.keys():
        if _are_dicts(before[name], now[name]):
            yield from _unequal(before[name], now[name], f"{prefix}{name}.")
        elif before[name] != now[name]:
            yield f"{prefix}{name}"


def _are_dicts(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)
