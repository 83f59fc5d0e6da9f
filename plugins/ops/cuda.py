"""The ops on CUDA tensors: our kernels where they are built and take the call, else the PyTorch reference.

The ops are functional: what the kernels could write in place (present over past) gets memory of its own here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import (
    DTYPES,
    CausalAttentionParams,
    KernelRefused,
    Kernels,
    SelectiveScanParams,
    token_stride,
)

if TYPE_CHECKING:
    from seqexport.plugins.ops.op import Op

Outputs = tuple[Tensor, ...]


@functools.cache
def kernels() -> Kernels | None:
    """The built kernel library, loaded once; None if it was never built.

    Raises:
        UserError: it is damaged, or of another seqexport version.
    """
    found = library.find("kernels")
    return None if found is None else Kernels(found.path)


def implementation(op: Op) -> Callable[..., Outputs]:
    """``op`` for CUDA tensors, with the parameters of its reference."""
    launch = LAUNCH[op.stem]

    def run(*arguments: object, **attributes: object) -> Outputs:
        loaded = kernels()
        if loaded is None or not _is_typed(op, arguments):
            return op.reference(*arguments, **attributes)
        try:
            with torch.cuda.device_of(arguments[0]):
                return launch(loaded, *arguments, **attributes)
        except KernelRefused:  # sizes beyond the kernels'
            return op.reference(*arguments, **attributes)

    return run


def causal_conv1d(
    loaded: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, seq_lens: Tensor | None,
    activation: str = "none",
) -> Outputs:  # fmt: skip
    x, past = _token_major(x), past.contiguous()
    weight, bias, seq_lens = weight.contiguous(), _contiguous(bias), _contiguous(seq_lens)
    y, present = x.new_empty(x.shape), past.new_empty(past.shape)
    params = loaded.causal_conv1d(x, weight, bias, past, seq_lens, y, present, activation)
    loaded.call("causal_conv1d", params, torch.cuda.current_stream().cuda_stream)
    return y, present


def selective_scan(
    loaded: Kernels, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None, dt_softplus: int = 0,
) -> Outputs:  # fmt: skip
    x, dt, B, C = _token_major(x), _token_major(dt), _token_major(B), _token_major(C)
    z = None if z is None else _token_major(z)
    A, past = A.contiguous(), past.contiguous()
    D, dt_bias, seq_lens = _contiguous(D), _contiguous(dt_bias), _contiguous(seq_lens)
    y, present = x.new_empty(x.shape), past.new_empty(past.shape)
    params = loaded.selective_scan(x, dt, A, B, C, D, z, dt_bias, past, seq_lens, y, present, bool(dt_softplus))
    _with_workspace(loaded, "selective_scan", params, x.device)
    return y, present


def causal_attention(
    loaded: Kernels, query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor,
    past_lens: Tensor, seq_lens: Tensor | None, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
) -> Outputs:  # fmt: skip
    query, key, value = _token_major(query), _token_major(key), _token_major(value)
    past_key, past_value = past_key.contiguous(), past_value.contiguous()
    past_lens, seq_lens = past_lens.contiguous(), _contiguous(seq_lens)
    y = query.new_empty(*query.shape[:3], value.shape[3])
    present_key, present_value = past_key.new_empty(past_key.shape), past_value.new_empty(past_value.shape)
    params = loaded.causal_attention(
        query, key, value, past_key, past_value, past_lens, seq_lens, y, present_key, present_value, scale or None,
        window, softcap,
    )  # fmt: skip
    _with_workspace(loaded, "causal_attention", params, query.device)
    return y, present_key, present_value


LAUNCH: dict[str, Callable[..., Outputs]] = {
    launch.__name__: launch for launch in (causal_conv1d, selective_scan, causal_attention)
}


def _with_workspace(
    loaded: Kernels, stem: str, params: SelectiveScanParams | CausalAttentionParams, device: torch.device
) -> None:
    """Launch with the workspace that the sizes ask for. The stream orders its reuse after the kernels."""
    workspace = torch.empty(loaded.workspace(stem, params), dtype=torch.uint8, device=device)
    params.workspace, params.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
    loaded.call(stem, params, torch.cuda.current_stream().cuda_stream)


def _is_typed(op: Op, arguments: tuple[object, ...]) -> bool:
    """Whether every tensor has the type of the op's schema, T being one that the kernels have, and is on one GPU."""
    first = arguments[0]
    if not isinstance(first, Tensor) or str(first.dtype).removeprefix("torch.") not in DTYPES:
        return False
    expected = {"T": first.dtype, "F": torch.float32, "I": torch.int32}
    pairs = zip(op.inputs.values(), arguments, strict=False)
    given = [(expected[kind], tensor) for kind, tensor in pairs if isinstance(tensor, Tensor)]
    return all(tensor.dtype == dtype and tensor.device == first.device for dtype, tensor in given)


def _token_major(tensor: Tensor) -> Tensor:
    """The tensor itself where its strides are ones that the kernels read, such as a slice of a fused projection."""
    try:
        token_stride(tensor)
    except ValueError:
        return tensor.contiguous()
    return tensor


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
