"""Public BEVFormer and BEVDistill checkpoints as students of ours.

Nothing in a file is executed. Every tensor must be known and every tensor of ours filled; colours, yaw and the order of
classes are folded into the weights, see `public_map`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PUBLIC_CAMERAS, PublicStudentConfig
from training.weights.foreign import read_foreign_checkpoint
from training.weights.public_kinds import PUBLIC_KINDS, KindFacts, PublicKind, facts_of, public_config
from training.weights.public_map import MapError, our_weights


def read_public(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Tensors of a public checkpoint by name, and its class names where it says them; nothing in it is executed.

    Prefixes of trainers are taken off. Of a checkpoint that holds a student and its teacher, only the student is kept.

    Raises:
        ValueError: It can't be read, it holds a LiDAR detector, or other classes than nuScenes'.
    """
    content = read_foreign_checkpoint(path)
    state = _student_of(content["state_dict"])
    if not any(name.startswith("img_backbone.") for name in state):
        if any(name.startswith(("pts_middle_encoder.", "pts_backbone.")) for name in state):
            raise ValueError(
                f"{path} holds a LiDAR detector, not a camera student; use it as a teacher: bevdistill train "
                f"--teacher_checkpoint {path} --mmdet3d.config CONFIG, where mmdet3d has its modules"
            )
        raise ValueError(f"{path} holds no BEVFormer: it has no tensor img_backbone.*")
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{path} holds numbers that are not finite, in {len(bad)} tensors (first: {bad[0]})")
    return state, _classes_in(content, path)


def public_student(
    state: Mapping[str, Tensor],
    kind: PublicKind,
    *,
    classes: Sequence[str] | None = None,
    source: Path | str = "checkpoint",
    **changes: Any,
) -> PublicBevFormer:
    """A student with public weights, in eval mode.

    Args:
        state: Tensors by public name, see `read_public`.
        kind: Which published model they are of.
        classes: In the order of the class logits; None for the order of the kind.
        source: Where they come from, for messages.
        changes: Settings of the student that differ from the kind's.

    Raises:
        ValueError: The tensors are of another kind or of another network.
    """
    facts = facts_of(kind)
    if classes is not None:
        facts = replace(facts, classes=tuple(classes))
    config = public_config(kind, **changes)
    try:
        weights = _weights(state, config, facts)
    except MapError as error:
        raise ValueError(_refusal(state, kind, source, error)) from error
    with _WithoutRandomWeights():
        student = PublicBevFormer(config)
    student.load_state_dict(weights)
    return student.eval()


def _weights(state: Mapping[str, Tensor], config: PublicStudentConfig, facts: KindFacts) -> dict[str, Tensor]:
    """Our weights of a state."""
    return our_weights(
        state, _expected(config), config, cameras=PUBLIC_CAMERAS, classes=facts.classes, is_caffe=facts.is_caffe
    )


@lru_cache(maxsize=8)
def _expected(config: PublicStudentConfig) -> dict[str, Tensor]:
    """Names and shapes of a student's tensors, on the meta device."""
    # Built on the CPU, where memory that nothing writes costs nothing: to build on meta, torch loads its compiler.
    with _WithoutRandomWeights():
        return {name: value.to("meta") for name, value in PublicBevFormer(config).state_dict().items()}


class _WithoutRandomWeights(TorchFunctionMode):
    """Leaves out the random start of weights that are loaded right after, or of which only shapes count."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _refusal(state: Mapping[str, Tensor], kind: PublicKind, source: Path | str, error: MapError) -> str:
    """Why a state is not of a kind, and of which it is instead, if of any."""
    for other in PUBLIC_KINDS:
        if other == kind:
            continue
        try:
            _weights(state, public_config(other), facts_of(other))
        except MapError:
            continue
        return f"{source} holds a {other}, not a {kind}; set --kind {other}"
    return f"{source} is not a {kind}: {error}"


def _student_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith("student.") for name in plain):
        plain = {name.removeprefix("student."): value for name, value in plain.items() if name.startswith("student.")}
    return {name: value for name, value in plain.items() if not name.startswith(("ema_", "teacher."))}


def _classes_in(content: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    """Class names of a checkpoint, by logit; None where it does not say them."""
    meta = content.get("meta") or {}
    found = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes") if isinstance(meta, dict) else None
    if not isinstance(found, list | tuple):
        return None
    names = tuple(map(str, found))
    if sorted(names) != sorted(CLASS_NAMES):
        raise ValueError(
            f"{path} was trained for other classes: {', '.join(names[:12])}; this program has {', '.join(CLASS_NAMES)}"
        )
    return names
