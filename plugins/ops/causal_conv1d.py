"""CausalConv1d: a depthwise causal convolution over time that carries its last K-1 inputs along.

    y[b,t,d] = act(bias[d] + sum_j weight[d,j] * xx[b,d,t+j]),   xx = past followed by x

Symbols: B batch, L tokens in this call, D channels, K kernel width.

    x        T[B,L,D]
    weight   T[D,K]
    bias     T[D], optional
    past     T[B,D,K-1]     the K-1 inputs before this call, oldest first
    seq_lens int32[B], optional: valid tokens of each sequence; later ones give 0 and leave the state as it is
    y        T[B,L,D]
    present  T[B,D,K-1]

T is float32, float16 or bfloat16; sums are float32. The state is one column shorter than transformers' own
(K columns, of which the first is never read).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import TOKEN_MASK, accumulation_dtype, token_mask


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    seq_lens: Tensor | None,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    L, K = x.shape[1], weight.shape[1]
    wide = accumulation_dtype(x)
    xx = torch.cat([past.transpose(1, 2), x], dim=1)
    windows = xx.to(wide).unfold(1, K, 1)  # [B,L,D,K]
    y = (windows * weight.to(wide)).sum(-1)
    if bias is not None:
        y = y + bias.to(wide)
    if activation == "silu":
        y = F.silu(y)
    valid = torch.full((x.shape[0],), L, device=x.device) if seq_lens is None else seq_lens
    if seq_lens is not None:
        y = torch.where(token_mask(seq_lens, L)[..., None], y, 0)
    rows = valid.long()[:, None] + torch.arange(K - 1, device=x.device)
    present = torch.take_along_dim(xx, rows[..., None], dim=1).transpose(1, 2).contiguous()
    return y.to(x.dtype), present


def fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor,
    seq_lens: Tensor | None,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(past)


def body(call: Call) -> list[str]:
    """Gathers every window of K inputs, so that K is read from the weight at run time."""
    return [
        *JOINED,
        "time_column = Unsqueeze (times, axis1)",
        "taps = Range (zero, K, one)",
        "window_rows = Add (time_column, taps)",
        "windows_ = Gather <axis = 1> (xx, window_rows)",
        "windows = Cast <to = 1> (windows_)",
        "weight_wide = Cast <to = 1> (weight)",
        "weight_rows = Transpose <perm = [1, 0]> (weight_wide)",
        "products = Mul (windows, weight_rows)",
        "sums = ReduceSum <keepdims = 0> (products, axis2)",
        *_bias(call),
        *_activation(call),
        *finished(call),
    ]


JOINED = [
    "past_rows = Transpose <perm = [0, 2, 1]> (past)",
    "xx = Concat <axis = 1> (past_rows, x)",
    "zero = Constant <value_int = 0> ()",
    "one = Constant <value_int = 1> ()",
    "axis1 = Constant <value_ints = [1]> ()",
    "axis2 = Constant <value_ints = [2]> ()",
    "L_ = Shape <start = 1, end = 2> (x)",
    "K_ = Shape <start = 1, end = 2> (weight)",
    "L = Squeeze (L_)",
    "K = Squeeze (K_)",
    "times = Range (zero, L, one)",
]
"""``xx`` [B,K-1+L,D], past and x, and its sizes."""


def _bias(call: Call) -> list[str]:
    if "bias" not in call:
        return ["linear = Identity (sums)"]
    return ["bias_wide = Cast <to = 1> (bias)", "linear = Add (sums, bias_wide)"]


def _activation(call: Call) -> list[str]:
    if call.attributes["activation"] == "none":
        return ["activated = Identity (linear)"]
    return ["gate = Sigmoid (linear)", "activated = Mul (linear, gate)"]


def finished(call: Call) -> list[str]:
    """y of ``activated`` [B,L,D], padded tokens 0, and the state that ``xx`` leaves."""
    lines = ["K_less_1 = Sub (K, one)", "state_taps = Range (zero, K_less_1, one)"]
    if "seq_lens" not in call:
        return [
            *lines,
            "y = CastLike (activated, x)",
            "state_rows = Add (state_taps, L)",
            "state = Gather <axis = 1> (xx, state_rows)",
            "present = Transpose <perm = [0, 2, 1]> (state)",
        ]
    return [
        *lines,
        *TOKEN_MASK,
        "activated_T = CastLike (activated, x)",
        "zero_wide = Constant <value_float = 0.0> ()",
        "zero_T = CastLike (zero_wide, x)",
        "y = Where (mask, activated_T, zero_T)",
        "valid_column = Unsqueeze (valid, axis1)",
        "state_rows_ = Add (valid_column, state_taps)",
        "state_rows = Unsqueeze (state_rows_, axis2)",
        "state = GatherND <batch_dims = 1> (xx, state_rows)",
        "present = Transpose <perm = [0, 2, 1]> (state)",
    ]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None,
    seq_lens: Tensor | None = None, *, activation: Literal["none", "silu"] = "none",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A depthwise causal convolution over time: ``y[t] = act(bias + sum_j weight[j] * xx[t + j])``.

    Args:
        x: T[B,L,D], float32, float16 or bfloat16.
        weight: T[D,K].
        bias: T[D].
        past: T[B,D,K-1], the inputs before this call, oldest first; None: zeros.
        seq_lens: int32[B], valid tokens of each sequence; later ones give 0 and leave the state as it is. None: all L.
        activation: ``none`` or ``silu``.

    Returns:
        y T[B,L,D], and the state after the call, T[B,D,K-1].
    """
    if past is None:
        past = x.new_zeros(x.shape[0], *weight.shape[:1], weight.shape[1] - 1)
    y, present = torch.ops.seqexport.causal_conv1d(x, weight, bias, past, seq_lens, activation)
    return y, present


OP = Op(
    name="CausalConv1d",
    stem="causal_conv1d",
    inputs={"x": "T", "weight": "T", "bias?": "T", "past": "T", "seq_lens?": "I"},
    outputs={"y": "T", "present": "T"},
    attributes={"activation": "none"},
    windows={"x": ("D",)},
    reference=reference,
    fake=fake,
    body=body,
)
