"""The model bundle: does it load, and does it run."""

import time
from pathlib import Path

import torch

from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.inference.bundle import Bundle, load_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines.network import EngineError

_REPEATS = 3
_SLOW_MS = 500.0  # the age of its memory in training: a temporal student that is slower cannot follow


def check_bundle(path: Path, *, choice: EngineChoice) -> tuple[Bundle | None, list[Finding]]:
    """The bundle, None where it is refused, and findings about it."""
    started = time.perf_counter()
    try:
        bundle = load_bundle(path)
    except (ValueError, OSError) as error:
        return None, [fail("bundle", str(error), "copy the bundle again, or make it again with 'bevdistill export'")]
    manifest, config = bundle.manifest, bundle.manifest.student
    elapsed = time.perf_counter() - started
    findings = [
        ok("bundle", f"'{path}' is {manifest.name} {manifest.version}, loaded in {elapsed:.1f} s"),
        ok("weights", f"SHA-256 {manifest.weights_sha256[:12]}… as the manifest says; {NUM_CLASSES} classes"),
        ok("input", f"{config.image_width}x{config.image_height} of {', '.join(config.cameras)}"),
        *_check_inference(bundle, choice),
    ]
    return bundle, findings


def _check_inference(bundle: Bundle, choice: EngineChoice) -> list[Finding]:
    try:
        engine = Engine(bundle, choice)
        engine.warm_up()
        times = sorted(_time_of(engine) for _ in range(_REPEATS))
    except FloatingPointError:
        return [fail("inference", "gives numbers that are not finite", "set precision to fp32, or retrain the model")]
    except EngineError as error:
        return [fail("engine", str(error), "see docs/engines.md; engine auto in precision fp32 runs any bundle")]
    except (ValueError, RuntimeError) as error:
        return [fail("inference", f"does not run: {error}", "see the section gpu; try device cpu and precision fp32")]
    refused = [warn("engine", line, "export the bundle again on this machine") for line in engine.warnings]
    middle = times[len(times) // 2]
    text = f"{middle:.0f} ms per set, engine {engine.description}: {1e3 / middle:.1f} sets per second at most"
    if middle > _SLOW_MS:
        remedy = "use a GPU, a faster engine, a smaller student, or fewer cameras; other sets are dropped"
        return [*refused, warn("inference", text, remedy)]
    return [*refused, ok("inference", text)]


def _time_of(engine: Engine) -> float:
    """Time [ms] per set of grey images."""
    config, rig = engine.config, engine.manifest.rig
    frame = CameraFrame(
        stamp_ns=0,
        images=torch.full((len(rig.names), 3, config.image_height, config.image_width), 114, dtype=torch.uint8),
        rig=rig,
        global_from_ego=torch.eye(4, dtype=torch.float64),
        valid=torch.ones(len(rig.names), dtype=torch.bool),
    )
    engine.reset()
    started = time.perf_counter()
    engine.infer(frame)
    return (time.perf_counter() - started) * 1e3
