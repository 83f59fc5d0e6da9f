"""VMamba's SS2D block (Liu et al. 2024, section 4.2): a map read in four orders, one scan of four groups, merged.

The scan is called as VMamba's builds of it are: four directions are four groups of channels of one call, through an
autograd function around ``selective_scan_cuda_oflex.fwd``.
"""

from __future__ import annotations

from typing import Any

import selective_scan_cuda_oflex
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORDERS = 4


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        y, kept, *_ = selective_scan_cuda_oflex.fwd(u, delta, A, B, C, D, bias, True, 1, True)
        ctx.save_for_backward(u, delta, A, B, C, D, bias, kept)
        return y

    @staticmethod
    def backward(ctx: Any, *args: Tensor) -> Any:
        return selective_scan_cuda_oflex.bwd(*ctx.saved_tensors, *args)


def unfolded(x: Tensor) -> Tensor:
    """[B,D,H,W] to [B,4,D,H*W]: along rows, along columns, and both backwards."""
    rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
    forwards = torch.stack([rows, columns], 1)
    return torch.cat([forwards, forwards.flip(-1)], 1)


def merged(y: Tensor, height: int, width: int) -> Tensor:
    """[B,4,D,H*W] to [B,D,H*W]: every order back on the map, and summed."""
    y = y[:, :2] + y[:, 2:].flip(-1)
    columns = y[:, 1].unflatten(-1, (width, height)).transpose(2, 3).flatten(2)
    return y[:, 0] + columns


class SS2D(nn.Module):
    def __init__(self, width: int, states: int = 3, rank: int = 2) -> None:
        super().__init__()
        D = 2 * width
        self.states, self.rank = states, rank
        self.into, self.out = nn.Linear(width, 2 * D), nn.Linear(D, width)
        self.conv = nn.Conv2d(D, D, 3, padding=1, groups=D)
        self.mix = nn.Parameter(torch.randn(ORDERS, rank + 2 * states, D) * D**-0.5)
        self.step = nn.Parameter(torch.randn(ORDERS, D, rank) * rank**-0.5)
        self.bias = nn.Parameter(torch.randn(ORDERS * D) - 2)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(ORDERS * D, 1))
        self.skip = nn.Parameter(torch.ones(ORDERS * D))
        self.norm = nn.LayerNorm(D)

    def forward(self, hidden: Tensor) -> Tensor:
        x, z = self.into(hidden).chunk(2, -1)
        x = F.silu(self.conv(x.permute(0, 3, 1, 2)))
        batch, D, height, width = x.shape
        seen = unfolded(x)
        low, B, C = torch.einsum("bkdl,kcd->bkcl", seen, self.mix).split([self.rank, self.states, self.states], 2)
        delta = torch.einsum("bkrl,kdr->bkdl", low, self.step)
        y = Scan.apply(
            seen.reshape(batch, -1, height * width),
            delta.reshape(batch, -1, height * width),
            -torch.exp(self.A_log.float()),
            B.contiguous(),
            C.contiguous(),
            self.skip.float(),
            self.bias.float(),
        )
        y = merged(y.view(batch, ORDERS, D, height * width), height, width).to(hidden.dtype)
        y = self.norm(y.transpose(1, 2)).unflatten(1, (height, width))
        return self.out(y * F.silu(z))


class VMamba(nn.Module):
    """images [B,3,H,W] of any size to classes [B,6] and a map of features."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.first, self.norm = nn.Conv2d(3, width, 4, 4), SS2D(width), nn.LayerNorm(width)
        self.down, self.second = nn.Conv2d(width, 2 * width, 2, 2), SS2D(2 * width)
        self.head = nn.Linear(2 * width, 6)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images).permute(0, 2, 3, 1)
        x = x + self.first(self.norm(x))
        x = self.down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.second(x)
        return {"scores": self.head(x.mean((1, 2))), "features": x.permute(0, 3, 1, 2)}


def make() -> nn.Module:
    torch.manual_seed(0)
    return VMamba()


INPUTS = {"images": torch.zeros(1, 3, 24, 40)}
DYNAMIC = {"images": ("batch", 3, "height", "width")}
OPS = {"SelectiveScan": 2}
