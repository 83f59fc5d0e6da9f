"""Runs an unmodified float32, float16 or bfloat16 model in float64: what every error is measured against.

Casting the model to float64 is not enough: transformers' norms, rotary embeddings and scans cast back to
float32 by name. Here every torch call is met on its way in:

1. a floating argument is upcast; a weight is upcast for that call alone, so that memory holds one at a time;
2. a dtype argument that names a narrower float becomes float64, and so does what ``tensor.dtype`` answers;
3. ``.float()``, ``.half()`` and ``.bfloat16()`` become ``.double()``;
4. what picks rows or looks at sizes (an embedding, an index, ``.shape``) runs on the narrow tensor, and its
   result is upcast;
5. float64 is the default dtype, for factories that name none;
6. a depthwise convolution over time is summed tap by tap: PyTorch's own takes a matrix product for each channel.

Values that the original holds in float32 (weights, ``inv_freq`` of rotary embeddings) are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from seqexport.plugins.errors import UserError

WIDER: dict[torch.dtype, torch.dtype] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}
CASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})
LOOKS = frozenset(
    {
        functional.embedding,
        torch.embedding,
        torch.is_floating_point,
        torch.numel,
        Tensor.__getitem__,
        Tensor.__len__,
        Tensor.dim,
        Tensor.is_contiguous,
        Tensor.is_floating_point,
        Tensor.ndimension,
        Tensor.numel,
        Tensor.requires_grad_,
        Tensor.size,
        Tensor.stride,
    }
)
WRITES = frozenset(
    {
        "__set__",
        "__setitem__",
        "__iadd__",
        "__isub__",
        "__imul__",
        "__itruediv__",
        "__ifloordiv__",
        "__ipow__",
    }
)


@contextmanager
def float64_arithmetic() -> Iterator[None]:
    """Compute in float64 whatever dtype the code inside asks for.

    Raises:
        UserError: the code writes into a narrower tensor that it held before what does not fit there unrounded.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64Mode():
            yield
    finally:
        torch.set_default_dtype(before)


class _Float64Mode(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" or func in LOOKS:
            return _widen(func(*args, **kwargs))
        if func is Tensor.copy_ and _keeps(*args[:2]):
            return func(*args, **kwargs)
        if _writes(name, kwargs):
            _refuse_narrow(name, kwargs.get("out", args[0]))
        if func in CASTS:
            func = Tensor.double
        args, kwargs = tree_map(_widen, (tuple(args), kwargs))
        return _conv1d(*args, **kwargs) if func is torch.conv1d else func(*args, **kwargs)


def _conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """torch.conv1d of x [B,D,L] and weight [D,1,K]; anything but depthwise with unit steps is left to PyTorch."""
    plain = all(step in (1, (1,), [1]) for step in (stride, dilation)) and isinstance(padding, int | tuple)
    if groups != x.shape[1] or groups != weight.shape[0] or not plain:
        return torch.conv1d(x, weight, bias, stride, padding, dilation, groups)
    pad = padding if isinstance(padding, int) else padding[0]
    windows = functional.pad(x, (pad, pad)).unfold(2, weight.shape[2], 1)
    y = (windows * weight[:, 0, None]).sum(-1)
    return y if bias is None else y + bias[:, None]


def _widen(value: Any) -> Any:
    """A narrow floating tensor, or the dtype of one, in float64; anything else as it is."""
    if isinstance(value, Tensor):
        wider = WIDER.get(value.dtype)
        return value if wider is None else value.to(wider)
    return WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _writes(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether a call changes its first argument or ``out``: ``add_``, ``x += y``, ``x[i] = y``."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in WRITES or kwargs.get("out") is not None


def _keeps(target: Tensor, source: Any) -> bool:
    """Whether a tensor holds ``source`` as it is: longrope puts float32 frequencies back into its float32 buffer."""
    return isinstance(source, Tensor) and torch.equal(source.to(target.dtype).to(source.dtype), source)


def _refuse_narrow(name: str, target: Any) -> None:
    if isinstance(target, Tensor) and target.dtype in WIDER:
        raise UserError(
            f"the model writes into one of its own {str(target.dtype).removeprefix('torch.')} tensors "
            f"({name}); its float64 results cannot be had this way"
        )
