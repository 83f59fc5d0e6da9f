"""A forecaster of several series: Mamba-2 over time in each of them, attention between them, and dates by a table."""

from __future__ import annotations

import torch
from mamba_ssm import Mamba2
from mamba_ssm.modules.block import Block
from mamba_ssm.ops.triton.layer_norm import RMSNorm
from torch import Tensor, nn

AHEAD = 3


class Forecaster(nn.Module):
    """past [B,T,S] and weekday int64[B,T] to the next values [B,3,S], the scale of each series given back."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into, self.days = nn.Linear(1, width), nn.Embedding(7, width)

        def mixer(dim: int) -> nn.Module:
            return Mamba2(dim, d_state=4, headdim=4, ngroups=2, chunk_size=8)

        self.time = Block(width, mixer, norm_cls=RMSNorm, fused_add_norm=True, residual_in_fp32=True)
        self.between = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, AHEAD)

    def forward(self, past: Tensor, weekday: Tensor) -> Tensor:
        mean, scale = past.mean(1, keepdim=True), past.std(1, keepdim=True, unbiased=False) + 1e-3
        x = self.into(((past - mean) / scale).unsqueeze(-1)) + self.days(weekday).unsqueeze(2)
        batch, length, series, width = x.shape
        hidden, residual = self.time(x.transpose(1, 2).reshape(batch * series, length, width))
        last = (hidden + residual).to(hidden.dtype)[:, -1].view(batch, series, width)
        attended, _ = self.between(last, last, last, need_weights=False)
        return self.out(last + attended).transpose(1, 2) * scale + mean


def make() -> nn.Module:
    torch.manual_seed(0)
    return Forecaster()


INPUTS = {"past": torch.zeros(2, 10, 5), "weekday": torch.arange(20).reshape(2, 10) % 7}
DYNAMIC = {"past": ("batch", "time", "series"), "weekday": ("batch", "time")}
OPS = {"SsdScan": 1, "CausalConv1d": 1}
