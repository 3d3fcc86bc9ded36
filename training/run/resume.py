"""Whether a run may be resumed: what its checkpoint was trained with against what is asked."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bevdistill_ros.model.config import completed
from training.run.callbacks import LAST
from training.run.config import TrainConfig
from training.weights.checkpoint import config_text, read_checkpoint, read_config

_LOG = logging.getLogger(__name__)

# What neither the data of a step nor its losses depend on; data may have moved.
_FREE = {
    *("data.root", "data.cache_dir", "data.val_split"),
    *(f"run.{name}" for name in ("output", "resume", "checkpoint_every", "log_every", "balance_every", "progress")),
    *(f"run.{name}" for name in ("teacher_cache", "num_workers", "accelerator", "threads")),
    *(f"run.{name}" for name in ("recompute_activations", "channels_last")),
}


def first_step(config: TrainConfig, output: Path) -> int:
    """Step to go on from; 0 for a new run."""
    last = output / LAST
    if not config.run.resume:
        if last.exists():
            raise ValueError(
                f"{output} already holds a run; set run.resume to true to go on with it, or choose another run.output"
            )
        return 0
    if not last.exists():
        _LOG.info("nothing to resume in %s: starting from step 0", output)
        return 0
    content = read_checkpoint(last)
    different = differences(read_config(content), json.loads(config_text(config)))
    if different:
        raise ValueError(
            f"{last} was trained with another {different[0]}; resume with the configuration in {output}/config.json"
        )
    return int(content["global_step"])


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names, as `distill.fitnet.weight`, of the settings on which a run's losses depend and that are not the same.

    Args:
        saved: Configuration of a run, as JSON has it. A setting that is younger than it counts as at its default.
        wanted: The same of another one, or of its continuation. A setting that is gone by now is not looked at.
    """
    defaults = json.loads(config_text(TrainConfig()))
    if isinstance(saved.get("student"), dict):
        saved = {**saved, "student": completed(saved["student"])}
    return sorted(name for name in _unequal(_filled(saved, defaults), wanted) if name not in _FREE)


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
