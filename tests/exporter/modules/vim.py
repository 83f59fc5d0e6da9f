"""Vision Mamba's block (Zhu et al. 2024, algorithm 1): one projection, two directions over patches, one way out.

Symbols: B images, M patches and a class token, D channels, N states.
"""

from __future__ import annotations

import torch
from causal_conv1d import causal_conv1d_fn
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.layer_norm import RMSNorm
from torch import Tensor, nn


class Direction(nn.Module):
    """Convolution, step sizes and scan of one direction; channel-major."""

    def __init__(self, channels: int, states: int, rank: int) -> None:
        super().__init__()
        self.states, self.rank = states, rank
        self.conv = nn.Conv1d(channels, channels, 4, groups=channels)
        self.mix = nn.Linear(channels, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = causal_conv1d_fn(x=x, weight=self.conv.weight.squeeze(1), bias=self.conv.bias, activation="silu")
        low, B, C = self.mix(x.transpose(1, 2)).split([self.rank, self.states, self.states], -1)
        delta = (low @ self.step.weight.T).transpose(1, 2)
        A = -torch.exp(self.A_log.float())
        return selective_scan_fn(
            x, delta, A, B.transpose(1, 2).contiguous(), C.transpose(1, 2).contiguous(), self.skip.float(), z,
            self.step.bias.float(), delta_softplus=True,
        )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into = RMSNorm(width), nn.Linear(width, 4 * width)
        self.there, self.back = Direction(2 * width, 5, 3), Direction(2 * width, 5, 3)
        self.out = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden, residual = self.norm(hidden, residual, prenorm=True, residual_in_fp32=True)
        x, z = self.into(hidden).transpose(1, 2).chunk(2, 1)
        y = self.there(x, z) + self.back(x.flip(-1), z.flip(-1)).flip(-1)
        return self.out(y.transpose(1, 2)), residual


class Vim(nn.Module):
    """images [B,3,H,W] to classes [B,7], with a table of positions and a class token in the middle."""

    def __init__(self, width: int = 10, side: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, side * side + 1, width) * 0.1)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        middle = x.shape[1] // 2
        x = torch.cat([x[:, :middle], self.token.expand(x.shape[0], -1, -1), x[:, middle:]], 1) + self.positions
        residual = None
        for block in self.blocks:
            x, residual = block(x, residual)
        return self.head(self.norm((x + residual)[:, middle].to(self.norm.weight.dtype)))


def make() -> nn.Module:
    torch.manual_seed(0)
    return Vim()


INPUTS = {"images": torch.zeros(2, 3, 16, 16)}
DYNAMIC = {"images": {0: "batch"}}
OPS = {"SelectiveScan": 4, "CausalConv1d": 4}
