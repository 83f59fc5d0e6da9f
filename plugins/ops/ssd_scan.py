"""SsdScan: the recurrence of Mamba-2 (Dao & Gu 2024, "Transformers are SSMs", section 7.1), one decay a head.

    delta = softplus(dt + dt_bias), at least dt_min and at most dt_max
    h[t]  = exp(delta[t] * A) * h[t-1] + delta[t] * x[t] (outer) B[t]
    y[t]  = (h[t] . C[t] + D * x[t]) * silu(z[t])

Symbols: B batch, L tokens in this call, H heads, P channels of a head, N states of a channel, G groups that share B
and C.

    x        T[B,L,H,P]
    dt       T[B,L,H]      step size before bias and softplus
    A        F[H]          negative
    B, C     T[B,L,G,N]    head h reads group floor(h * G / H)
    D        F[H], optional
    z        T[B,L,H,P], optional
    dt_bias  F[H], optional
    past     F[B,H,P,N]
    seq_lens int32[B], optional: valid tokens of each sequence; later ones give 0 and leave the state as it is
    y        T[B,L,H,P]
    present  F[B,H,P,N]

T is float32, float16 or bfloat16; F is float32, and so is all arithmetic. A limit of 0 is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seqexport.plugins.ops.op import Op
from seqexport.plugins.ops.ragged import accumulation_dtype, token_mask
from seqexport.plugins.ops.ssd_scan_body import body


def reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None,
    dt_softplus: int = 0, dt_min: float = 0.0, dt_max: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    L, heads, groups = x.shape[1], x.shape[2], B.shape[2]
    wide = accumulation_dtype(past)
    delta = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias
    delta = F.softplus(delta) if dt_softplus else delta
    delta = delta.clamp(min=dt_min) if dt_min > 0 else delta
    delta = delta.clamp(max=dt_max) if dt_max > 0 else delta
    group = torch.arange(heads, device=x.device) * groups // heads
    B_head, C_head = B.to(wide)[:, :, group], C.to(wide)[:, :, group]  # [B,L,H,N]
    h, outputs = past.to(wide), []
    valid = None if seq_lens is None else token_mask(seq_lens, L)
    for t in range(L):
        step = delta[:, t, :, None, None]
        updated = torch.exp(step * A[:, None, None]) * h + step * x[:, t, :, :, None].to(wide) * B_head[:, t, :, None]
        h = updated if valid is None else torch.where(valid[:, t, None, None, None], updated, h)
        outputs.append((h * C_head[:, t, :, None]).sum(-1))
    y = torch.stack(outputs, dim=1)
    y = y if D is None else y + D[:, None] * x.to(wide)
    y = y if z is None else y * F.silu(z.to(wide))
    y = y if valid is None else torch.where(valid[..., None, None], y, 0)
    return y.to(x.dtype), h.clone()


def fake(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None,
    dt_softplus: int = 0, dt_min: float = 0.0, dt_max: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(past)


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    dt_bias: Tensor | None = None, past: Tensor | None = None, seq_lens: Tensor | None = None, *,
    dt_softplus: bool = False, dt_limit: tuple[float, float] = (0.0, float("inf")),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The scan of Mamba-2 (Dao & Gu 2024): ``h = exp(dt * A) * h + dt * x (outer) B``, ``y = h . C + D * x``.

    Args:
        x: T[B,L,H,P], float32, float16 or bfloat16.
        dt: T[B,L,H].
        A: float32[H], negative.
        B, C: T[B,L,G,N]; head h reads group ``floor(h * G / H)``.
        D: float32[H].
        z: T[B,L,H,P], gates y by ``silu(z)``.
        dt_bias: float32[H], added to dt.
        past: float32[B,H,P,N], the state before this call; None: zeros.
        seq_lens: int32[B], valid tokens of each sequence; later ones give 0 and leave the state as it is. None: all L.
        dt_softplus: pass ``dt + dt_bias`` through softplus.
        dt_limit: the least and the most step, after softplus.

    Returns:
        y T[B,L,H,P], and the state after the call, float32[B,H,P,N].
    """
    if past is None:
        past = A.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    least, most = dt_limit
    y, present = torch.ops.seqexport.ssd_scan(
        x, dt, A, B, C, D, z, dt_bias, past, seq_lens, int(dt_softplus), least, most if most < float("inf") else 0.0
    )
    return y, present


OP = Op(
    name="SsdScan",
    stem="ssd_scan",
    inputs={
        "x": "T",
        "dt": "T",
        "A": "F",
        "B": "T",
        "C": "T",
        "D?": "F",
        "z?": "T",
        "dt_bias?": "F",
        "past": "F",
        "seq_lens?": "I",
    },
    outputs={"y": "T", "present": "F"},
    attributes={"dt_softplus": 0, "dt_min": 0.0, "dt_max": 0.0},
    windows={
        **dict.fromkeys(("x", "z"), ("H", "P")),
        **dict.fromkeys(("B", "C"), ("G", "N")),
        "dt": ("H",),
    },
    reference=reference,
    fake=fake,
    body=body,
)
