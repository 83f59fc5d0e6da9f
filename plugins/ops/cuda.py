"""The ops on CUDA tensors: our kernels where they are built and take the call, else the PyTorch reference.

The ops are functional: what the kernels could write in place (present over past) gets memory of its own here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import (
    DTYPES,
    CausalAttentionParams,
    KernelRefused,
    Kernels,
    LinearParams,
    SelectiveScanParams,
    token_stride,
)
from seqexport.plugins.ops.linear import empty_outputs
from seqexport.plugins.ops.rms_norm import stream_dtype

if TYPE_CHECKING:
    from ctypes import Structure

    from seqexport.plugins.ops.op import Op

Outputs = Sequence[Tensor]


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
        if loaded is None or not _is_typed(op, arguments, attributes):
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
    _launch(loaded, "causal_conv1d", params)
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


def linear(
    loaded: Kernels, x: Tensor, weight: Tensor, bias: Tensor | None, weight1: Tensor | None, bias1: Tensor | None,
    weight2: Tensor | None, bias2: Tensor | None,
) -> Outputs:  # fmt: skip
    x = x.contiguous()
    weights = [_contiguous(each) for each in (weight, weight1, weight2)]
    biases = [_contiguous(each) for each in (bias, bias1, bias2)]
    outputs = empty_outputs(x, [each for each in weights if each is not None])
    _with_workspace(loaded, "linear", loaded.linear(x, weights, biases, outputs), x.device)
    return outputs


def rms_norm(
    loaded: Kernels, x: Tensor, weight: Tensor, residual: Tensor | None, epsilon: float = 1e-6, wide: int = 0
) -> Outputs:
    x, weight, residual = x.contiguous(), weight.contiguous(), _contiguous(residual)
    y, total = torch.empty_like(x), torch.empty_like(x, dtype=stream_dtype(x, wide))
    params = loaded.rms_norm(x, weight, residual, y, total, epsilon, bool(wide))
    _launch(loaded, "rms_norm", params)
    return y, total


def rotary_embedding(loaded: Kernels, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Outputs:
    query, key, cos, sin = query.contiguous(), key.contiguous(), cos.contiguous(), sin.contiguous()
    rotated = torch.empty_like(query), torch.empty_like(key)
    params = loaded.rotary_embedding(query, key, cos, sin, *rotated)
    _launch(loaded, "rotary_embedding", params)
    return rotated


def embedding(loaded: Kernels, weight: Tensor, ids: Tensor) -> Outputs:
    weight, ids = weight.contiguous(), ids.contiguous()
    y = weight.new_empty(*ids.shape, weight.shape[1])
    _launch(loaded, "embedding", loaded.embedding(weight, ids, y))
    return [y]


def last_token(loaded: Kernels, x: Tensor, seq_lens: Tensor) -> Outputs:
    x, seq_lens = x.contiguous(), seq_lens.contiguous()
    y = x.new_empty(x.shape[0], 1, x.shape[2])
    _launch(loaded, "last_token", loaded.last_token(x, seq_lens, y))
    return [y]


LAUNCH: dict[str, Callable[..., Outputs]] = {
    launch.__name__: launch
    for launch in (
        causal_attention,
        causal_conv1d,
        embedding,
        last_token,
        linear,
        rms_norm,
        rotary_embedding,
        selective_scan,
    )
}


def _with_workspace(
    loaded: Kernels, stem: str, params: SelectiveScanParams | CausalAttentionParams | LinearParams, device: torch.device
) -> None:
    """Launch with the workspace that the sizes ask for. The stream orders its reuse after the kernels."""
    workspace = torch.empty(loaded.workspace(stem, params), dtype=torch.uint8, device=device)
    params.workspace, params.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
    _launch(loaded, stem, params)


def _launch(loaded: Kernels, stem: str, params: Structure) -> None:
    loaded.call(stem, params, torch.cuda.current_stream().cuda_stream)


def _is_typed(op: Op, arguments: tuple[object, ...], attributes: Mapping[str, object]) -> bool:
    """Whether every tensor has the type of the op's schema, T being one that the kernels have, and is on one GPU."""
    first = arguments[0]
    if not isinstance(first, Tensor) or str(first.dtype).removeprefix("torch.") not in DTYPES:
        return False
    positional = dict(zip(op.attributes, arguments[len(op.inputs) :], strict=False))
    wide = {**op.attributes, **positional, **attributes}.get("wide")
    expected = {"T": first.dtype, "F": torch.float32, "I": torch.int32, "S": torch.float32 if wide else first.dtype}
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
