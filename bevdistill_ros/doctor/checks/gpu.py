"""The GPU: is it there, does it work, and what number format suits it."""

import time
from dataclasses import dataclass

import torch

from bevdistill_ros.doctor.finding import Finding, fail, ok, warn

_GIB = 2**30
_MIN_FREE = 1.5  # [GiB] that a ResNet-50 student with six cameras and its CUDA context ask for
_FP16_CAPABILITY = (7, 0)  # from here on half precision is faster than single
_BF16_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What torch reports about a GPU."""

    name: str
    capability: tuple[int, int]
    free_gib: float
    total_gib: float


def check_gpu(device: str, precision: str | None) -> list[Finding]:
    """Findings about the device of torch that the node is to run on.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: `fp32`, `fp16` or `bf16` of torch; None where another engine is to run.
    """
    if device == "cpu":
        return [ok("device", "cpu, as asked for"), *_cpu_precision(precision)]
    if not torch.cuda.is_available():
        return [_no_gpu(device), *_cpu_precision(precision)]
    index = torch.device("cuda" if device == "auto" else device).index or 0
    if index >= torch.cuda.device_count():
        return [fail("device", f"{device} is not there", f"torch sees {torch.cuda.device_count()}; take device auto")]
    try:
        gpu, elapsed_ms = _gpu_of(index), _try_out(index)
    except RuntimeError as error:
        remedy = "see nvidia-smi; driver and CUDA version of torch must fit, and no other program may fill the memory"
        return [fail("device", f"cuda:{index} does not work: {error}", remedy)]
    works = ok("device", f"cuda:{index} works, {elapsed_ms:.1f} ms for a product of two 1024x1024 matrices")
    return [works, *describe_gpu(gpu, precision)]


def describe_gpu(gpu: Gpu, precision: str | None) -> list[Finding]:
    """Findings about a GPU that works."""
    text = f"{gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free"
    memory = ok("memory", text)
    if gpu.free_gib < _MIN_FREE:
        memory = warn("memory", f"only {text}", f"a large student wants {_MIN_FREE} GiB; end other programs on the GPU")
    if precision is None:
        return [memory]
    has_fp16, has_bf16 = gpu.capability >= _FP16_CAPABILITY, gpu.capability >= _BF16_CAPABILITY
    fits = ["fp32", *(["fp16"] if has_fp16 else []), *(["bf16"] if has_bf16 else [])]
    name = f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if precision not in fits:
        return [memory, warn("precision", f"{name} is slow in {precision}", f"set precision to {' or '.join(fits)}")]
    if precision == "fp32" and has_fp16:
        return [memory, ok("precision", f"fp32; {name} is faster in {' or '.join(fits[1:])}, scores change a little")]
    return [memory, ok("precision", f"{precision} suits {name}")]


def _no_gpu(device: str) -> Finding:
    remedy = "on a machine with an NVIDIA GPU install a CUDA build of torch (pytorch.org) and check nvidia-smi"
    if device != "auto":
        return fail("device", f"{device} is asked for, but torch {torch.__version__} sees no GPU", remedy)
    threads = torch.get_num_threads()
    return warn("device", f"no GPU; the network runs on the CPU, {threads} threads, slower than most cameras", remedy)


def _cpu_precision(precision: str | None) -> list[Finding]:
    if precision is None:
        return []
    if precision == "fp16":
        return [fail("precision", "fp16 needs a GPU", "set precision to fp32, or bf16 where the CPU is recent")]
    return [ok("precision", precision)]


def _gpu_of(index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    return Gpu(
        name=torch.cuda.get_device_name(index),
        capability=torch.cuda.get_device_capability(index),
        free_gib=free / _GIB,
        total_gib=total / _GIB,
    )


def _try_out(index: int) -> float:
    """Time [ms] of a matrix product on the GPU, after one that is not counted."""
    matrix = torch.ones(1024, 1024, device=f"cuda:{index}")
    for _ in range(2):
        started = time.perf_counter()
        corner = float((matrix @ matrix)[0, 0])
    if corner != 1024.0:
        raise RuntimeError(f"a product of ones gave {corner} instead of 1024")
    return (time.perf_counter() - started) * 1e3
