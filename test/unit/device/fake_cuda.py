"""A CUDA device without a GPU: tensors that say `cuda:0`, refuse what CUDA refuses, and count waits for the device.

Values are computed on the CPU, so everything that depends on them (matching, masks, sizes) runs as it would. To torch's
C++ code the tensors are on the device meta, which needs no driver; `FakeCuda` turns one name into the other.

A wait is whatever makes the CPU stand still until the GPU has caught up: reading a value, a result whose size depends
on values, `torch.cuda.synchronize`, and copies from memory that is not pinned.

Not covered: kernels, their rounding, and autocast, which does nothing on this device.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[3]
CUDA, META, CPU = torch.device("cuda:0"), torch.device("meta"), torch.device("cpu")
_aten: Any = torch.ops.aten

_READS_VALUES = {  # operators whose result, or its size, the CPU must know
    _aten._local_scalar_dense,
    _aten.is_nonzero,
    _aten.equal,
    _aten.nonzero,
    _aten.nonzero_static,
    _aten.argwhere,
    _aten.masked_select,
    _aten._unique,
    _aten._unique2,
    _aten.unique_dim,
    _aten.unique_consecutive,
    _aten.unique_dim_consecutive,
    _aten.bincount,
    _aten._linalg_check_errors,
}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index_put}
_COPIES = {_aten.copy_, _aten.copy, _aten._to_copy}


class DeviceMismatchError(RuntimeError):
    """Tensors of different devices meet in one operation."""


class FakeCudaTensor(Tensor):
    """A tensor on the fake device; made by `FakeCuda` alone."""

    value: Tensor  # what it holds, on the CPU

    @staticmethod
    def __new__(cls, value: Tensor) -> "FakeCudaTensor":
        made: FakeCudaTensor = Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=META,
        )
        made.value = value
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"FakeCudaTensor({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the fake CUDA device outside of FakeCuda()")


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The CPU waits for the GPU."""

    operation: str
    place: str  # file and function of the project, "backward", or "" outside of both

    def __str__(self) -> str:
        return f"{self.operation} in {self.place or 'the caller'}"


class FakeCuda(TorchDispatchMode):
    """While it is entered, `cuda` and `cuda:0` are devices that torch knows; `waits` lists what waited for them."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self._pinned: dict[int, Tensor] = {}  # by id; held, so that no id is given twice
        self._others: list[AbstractContextManager[Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # so that torch's compiler, seconds of imports, stays out

    def __enter__(self) -> Self:
        super().__enter__()
        self._others = [
            _Calls(self),
            mock.patch.object(torch.cuda, "synchronize", self._synchronize),
            # In inference mode torch cannot make views of tensors like ours.
            mock.patch.object(torch.inference_mode, "__enter__", _without_gradients),
            mock.patch.object(torch.inference_mode, "__exit__", _as_before),
        ]
        for other in self._others:
            other.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for other in reversed(self._others):
            other.__exit__(*error)
        super().__exit__(*error)

    @property
    def places(self) -> Counter[str]:
        """How often which operation waited where."""
        return Counter(map(str, self.waits))

    @contextmanager
    def counted(self) -> Iterator[list[Wait]]:
        """What waits within it; waits so far are forgotten."""
        self.waits.clear()
        yield self.waits

    def wait(self, operation: str) -> None:
        """Count a wait."""
        self.waits.append(Wait(operation=operation, place=_place()))

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in pinned memory."""
        pinned = tensor.clone()
        self._pinned[id(pinned)] = pinned
        return pinned

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether copies from this tensor of the CPU need not wait."""
        return id(tensor) in self._pinned

    def on_device(self, value: Tensor) -> Tensor:
        """A tensor of the fake device that holds a value of the CPU."""
        return FakeCudaTensor(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        if packet in _COPIES:
            return self._copy(func, args, kwargs)
        leaves = list(_tensors_in((*args, *kwargs.values())))
        fakes = [leaf for leaf in leaves if isinstance(leaf, FakeCudaTensor)]
        if packet in _INDEXING and fakes:
            args = self._index(func, args)
        elif fakes:
            _check_devices(func, leaves)
        if fakes and (packet in _READS_VALUES or _has_size_of_values(packet, args, kwargs)):
            self.wait(packet.__name__)
        on_device = bool(fakes) or kwargs.get("device") == META
        if kwargs.get("device") == META:
            kwargs["device"] = CPU
        result = func(*_mapped(_value, args), **_mapped(_value, kwargs))
        return _wrapped(result, fakes) if on_device else result

    def _copy(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """`copy_(target, source)`, or `_to_copy(source, device=...)`."""
        if func.overloadpacket is _aten._to_copy:
            source, device = args[0], kwargs.pop("device", None)
            to_device = isinstance(source, FakeCudaTensor) if device is None else device == META
            non_blocking = kwargs.get("non_blocking", False)
        else:
            source, to_device = args[1], isinstance(args[0], FakeCudaTensor)
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        from_device = isinstance(source, FakeCudaTensor)
        if from_device and not to_device:
            self.wait("copy to the host")
        elif to_device and not from_device and not (non_blocking and self.is_pinned(source)):
            self.wait("copy from the host")
        result = func(*_mapped(_value, args), **kwargs)
        return _wrapped(result, [args[0]] if func.overloadpacket is _aten.copy_ else []) if to_device else result

    def _index(self, func: Any, args: Sequence[Any]) -> Sequence[Any]:
        """Arguments of an indexing operator; indices may lie on the host, but are copied then."""
        target, indices, *values = args
        if not isinstance(target, FakeCudaTensor):
            raise DeviceMismatchError(f"{func}: indices or values on {CUDA}, but the indexed tensor on the CPU")
        if values and not isinstance(values[0], FakeCudaTensor) and values[0].dim():
            raise DeviceMismatchError(f"{func}: the indexed tensor is on {CUDA}, but the values on the CPU")
        masks = [index for index in indices if index is not None and index.dtype in (torch.bool, torch.uint8)]
        is_number = bool(values) and values[0].numel() == 1 and not isinstance(values[0], FakeCudaTensor)
        fills = is_number and len(masks) == 1 == len(indices)  # becomes a masked_fill
        for index in indices:
            if index is not None and not isinstance(index, FakeCudaTensor):
                self.wait("copy of an index from the host")
        if masks and not fills:
            self.wait("index by a mask")
        return args

    def _synchronize(self, device: object = None) -> None:
        self.wait("torch.cuda.synchronize")


class _Calls(TorchFunctionMode):
    """The part that torch's C++ code would refuse before an operator runs: names of devices, and lists of values."""

    def __init__(self, device: FakeCuda) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special: Callable[..., Any] | None = getattr(self, f"_call_{getattr(func, '__name__', '')}", None)
        if special is not None:
            return special(func, args, kwargs)
        return func(*map(_renamed, args), **_renamed_device(kwargs))

    def _call_tensor(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`torch.tensor` of Python values, which lie in memory that is not pinned."""
        device = kwargs.get("device")
        if device is None or _renamed(device) != META:
            return func(*args, **kwargs)
        self._device.wait("tensor of Python values")
        return self._device.on_device(func(*args, **{**kwargs, "device": CPU}))

    _call_as_tensor = _call_asarray = _call_tensor

    def _call_new_tensor(self, func: Any, args: Any, kwargs: Any) -> Any:
        like, data, *rest = args
        device = kwargs.pop("device", like.device)
        kwargs.setdefault("dtype", like.dtype)
        return self._call_tensor(torch.tensor, (data, *rest), {**kwargs, "device": device})

    def _call_tolist(self, func: Any, args: Any, kwargs: Any) -> Any:
        (tensor,) = args
        if isinstance(tensor, FakeCudaTensor):
            self._device.wait("tolist")
            tensor = tensor.value
        return func(tensor)

    def _call_numpy(self, func: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(args[0], FakeCudaTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")
        return func(*args, **kwargs)

    _call___array__ = _call_numpy

    def _call_pin_memory(self, func: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(args[0], FakeCudaTensor):
            raise RuntimeError("cannot pin a tensor of the device; only tensors of the CPU can be pinned")
        return self._device.pin(args[0])

    def _call_is_pinned(self, func: Any, args: Any, kwargs: Any) -> Any:
        return self._device.is_pinned(args[0])

    def _call___getitem__(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, index, *rest = args
        if isinstance(target, FakeCudaTensor):
            entries = tuple(map(_as_index, index)) if isinstance(index, tuple) else _as_index(index)
            return func(target, entries, *rest)
        return func(*args, **kwargs)

    def _call___setitem__(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, index, value = args
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
        if is_mask and isinstance(target, FakeCudaTensor) and not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=target.dtype)  # where torch puts it for a CUDA tensor
        return self._call___getitem__(func, (target, index, value), kwargs)

    def _call_device(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def _call_cuda(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor, *device = args
        return tensor.to(_renamed(device[0] if device else CUDA), **kwargs)


def _without_gradients(mode: Any) -> None:
    mode._before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(not mode.mode)


def _as_before(mode: Any, *error: Any) -> None:
    torch._C._set_grad_enabled(mode._before)


def _as_index(entry: Any) -> Any:
    """An entry of an index; a list of numbers becomes the tensor of the host that it is."""
    return torch.tensor(entry) if isinstance(entry, (list, tuple)) else entry


def _renamed(value: Any) -> Any:
    """A device `cuda` by the name that torch's C++ code is given; anything else as it is."""
    if isinstance(value, torch.device):
        return META if value.type == "cuda" else value
    is_name = isinstance(value, str) and (value == "cuda" or value.startswith("cuda:"))
    return META if is_name else value


def _renamed_device(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _renamed(value) if name == "device" else value for name, value in kwargs.items()}


def _mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Arguments or results of an operator with each leaf changed; torch's own function for it takes thrice the time."""
    if isinstance(values, (list, tuple)):
        return type(values)([_mapped(change, value) for value in values])
    if isinstance(values, dict):
        return {name: _mapped(change, value) for name, value in values.items()}
    return change(values)


def _tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


def _value(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, FakeCudaTensor) else leaf


def _wrapped(result: Any, known: Sequence[FakeCudaTensor]) -> Any:
    """Results on the fake device; what was changed in place stays the tensor that it was."""
    by_value = {id(tensor.value): tensor for tensor in known}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return by_value[id(leaf)] if id(leaf) in by_value else FakeCudaTensor(leaf)

    return _mapped(wrap, result)


def _check_devices(func: Any, leaves: Sequence[Tensor]) -> None:
    """CUDA takes tensors of the CPU only where they are scalars of an elementwise operator."""
    scalars_may_differ = torch.Tag.pointwise in func.tags
    for leaf in leaves:
        if isinstance(leaf, FakeCudaTensor) or (scalars_may_differ and leaf.dim() == 0):
            continue
        raise DeviceMismatchError(
            f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu {tuple(leaf.shape)}"
        )


def _has_size_of_values(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the size of a result must be read from the device."""
    if packet is _aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return packet is _aten.segment_reduce and not kwargs.get("unsafe", False)


def _place() -> str:
    """Where in the project we are."""
    if torch._C._current_graph_task_id() != -1:
        return "backward"
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        for room in ("bevdistill_ros", "training"):
            if path.is_relative_to(ROOT / room):
                return f"{path.relative_to(ROOT)} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
