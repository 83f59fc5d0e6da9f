"""Vision models of published shapes with random weights, as their authors call mamba_ssm: VMamba (Liu et al. 2024) and
Vision Mamba (Zhu et al. 2024).

Symbols: B images, H and W places of a map, L = H W, D channels, N states, R rank of the time steps, K directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from causal_conv1d import causal_conv1d_fn
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor, nn

N, K = 16, 4


def _rates(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.arange(1.0, N + 1).log().repeat(channels, 1))


class SS2D(nn.Module):
    """[B,H,W,width] to the same (VMamba, section 4.2): rows, columns and both backwards in one scan of four groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        D, self.rank = 2 * width, math.ceil(width / 16)
        self.into, self.out = nn.Linear(width, 2 * D, bias=False), nn.Linear(D, width, bias=False)
        self.conv = nn.Conv2d(D, D, 3, padding=1, groups=D)
        self.mix = nn.Parameter(torch.randn(K, self.rank + 2 * N, D) * D**-0.5)
        self.step = nn.Parameter(torch.randn(K, D, self.rank) * self.rank**-0.5)
        self.bias, self.A_log = nn.Parameter(torch.rand(K, D) * 4 - 6), _rates(K * D)
        self.skip, self.norm = nn.Parameter(torch.ones(K * D)), nn.LayerNorm(D)

    def forward(self, hidden: Tensor) -> Tensor:
        x, z = self.into(hidden).chunk(2, -1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2)))
        B, D, H, W = x.shape
        both = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
        seen = torch.cat([both, both.flip(-1)], 1)  # [B,K,D,L]
        low, Bs, Cs = torch.einsum("bkdl,kcd->bkcl", seen, self.mix).split([self.rank, N, N], 2)
        delta = torch.einsum("bkrl,kdr->bkdl", low, self.step)
        y = selective_scan_fn(
            seen.reshape(B, -1, H * W), delta.reshape(B, -1, H * W), -self.A_log.float().exp(), Bs, Cs,
            self.skip.float(), delta_bias=self.bias.flatten().float(), delta_softplus=True,
        ).view(B, K, D, H * W)  # fmt: skip
        y = y[:, :2] + y[:, 2:].flip(-1)
        y = y[:, 0] + y[:, 1].view(B, D, W, H).transpose(2, 3).flatten(2)
        y = self.norm(y.transpose(1, 2)).view(B, H, W, D)
        return self.out(y * F.silu(z))


class VMamba(nn.Module):
    """image [B,3,H,W] to features [B,width,H/32,W/32]: four stages, each of half the places and twice the channels."""

    def __init__(self, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.halves = nn.Conv2d(3, width, 4, 4), nn.ModuleList()
        self.stages: Any = nn.ModuleList()
        self.norms: Any = nn.ModuleList()
        for stage, depth in enumerate(depths):
            wide = width << stage
            self.halves.append(nn.Conv2d(wide // 2, wide, 2, 2) if stage else nn.Identity())
            self.stages.append(nn.ModuleList([SS2D(wide) for _ in range(depth)]))
            self.norms.append(nn.ModuleList([nn.LayerNorm(wide) for _ in range(depth)]))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for half, blocks, norms in zip(self.halves, self.stages, self.norms, strict=True):
            x = half(x).permute(0, 2, 3, 1)
            for block, norm in zip(blocks, norms, strict=True):
                x = x + block(norm(x))
            x = x.permute(0, 3, 1, 2)
        return x


class Direction(nn.Module):
    """x, z [B,D,L] to the same: convolution and scan of one of Vim's directions."""

    def __init__(self, D: int, rank: int) -> None:
        super().__init__()
        self.rank, self.conv = rank, nn.Conv1d(D, D, 4, padding=3, groups=D)
        self.mix, self.step = nn.Linear(D, rank + 2 * N, bias=False), nn.Linear(rank, D)
        self.A_log, self.skip = _rates(D), nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = causal_conv1d_fn(x, self.conv.weight.squeeze(1), self.conv.bias, activation="silu")
        low, B, C = self.mix(x.transpose(1, 2)).split([self.rank, N, N], -1)
        delta = (low @ self.step.weight.T).transpose(1, 2)
        return selective_scan_fn(
            x, delta, -self.A_log.float().exp(), B.transpose(1, 2), C.transpose(1, 2), self.skip.float(), z,
            self.step.bias.float(), True,
        )  # fmt: skip


class VimBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        D, rank = 2 * width, math.ceil(width / 16)
        self.norm, self.into = nn.LayerNorm(width), nn.Linear(width, 2 * D, bias=False)
        self.there, self.back, self.out = Direction(D, rank), Direction(D, rank), nn.Linear(D, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner, z = self.into(self.norm(x)).transpose(1, 2).chunk(2, 1)
        y = self.there(inner, z) + self.back(inner.flip(-1), z.flip(-1)).flip(-1)
        return x + self.out(y.transpose(1, 2))


class Vim(nn.Module):
    """image [B,3,224,224] to features [B,width]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks, self.norm = nn.Sequential(*[VimBlock(width) for _ in range(depth)]), nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        return self.norm(self.blocks(x)).mean(1)


def _random(make: Callable[[], nn.Module]) -> nn.Module:
    """The same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def vmamba_tiny() -> nn.Module:
    return _random(lambda: VMamba(96, (2, 2, 9, 2)))


def vmamba_base() -> nn.Module:
    return _random(lambda: VMamba(128, (2, 2, 27, 2)))


def vim_small() -> nn.Module:
    return _random(lambda: Vim(384, 24))
