"""Two classifiers of images of any size that differ in one thing: how a patch hears of the others.

``scanner`` reads the map of patches in four orders with Mamba's selective scan (VMamba: Liu et al. 2024, section
4.2); ``attender`` attends from every patch to every other (ViT: Dosovitskiy et al. 2021). Both have 1.2 M parameters,
the same MLPs, and no table of positions: a depthwise convolution before each mixer tells where a patch is.

Symbols: B images, H and W patches of a map, L = H W, D channels, N states, R rank of the time steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor, nn

PATCH, WIDTH, DEPTH, CLASSES = 8, 128, 6, 10
STATES, RANK, ORDERS, HEADS = 8, 8, 4, 4


class Scans(nn.Module):
    """[B,H,W,D] to the same: one scan along rows, along columns, and along both backwards, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mix = nn.Parameter(torch.randn(ORDERS, RANK + 2 * STATES, width) * width**-0.5)
        self.step = nn.Parameter(torch.randn(ORDERS, width, RANK) * RANK**-0.5)
        self.bias = nn.Parameter(torch.rand(ORDERS * width) * 4 - 6)
        self.A_log = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(ORDERS * width, 1))
        self.skip = nn.Parameter(torch.ones(ORDERS * width))

    def forward(self, hidden: Tensor) -> Tensor:
        height, width = hidden.shape[1:3]
        x, z = self.into(hidden).chunk(2, -1)
        rows, columns = (each.flatten(1, 2).transpose(1, 2) for each in (F.silu(x), F.silu(x).transpose(1, 2)))
        orders = torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], 1)  # [B,4,D,L]
        low, B, C = torch.einsum("bkdl,kcd->bkcl", orders, self.mix).split([RANK, STATES, STATES], 2)
        delta = torch.einsum("bkrl,kdr->bkdl", low, self.step)
        y = selective_scan_fn(
            orders.flatten(1, 2), delta.flatten(1, 2), -self.A_log.exp(), B, C, self.skip,
            delta_bias=self.bias, delta_softplus=True,
        )  # fmt: skip
        y = y.unflatten(1, (ORDERS, -1))
        y = y[:, :2] + y[:, 2:].flip(-1)
        by_rows = y[:, 0].unflatten(-1, (height, width)).permute(0, 2, 3, 1)
        by_columns = y[:, 1].unflatten(-1, (width, height)).permute(0, 3, 2, 1)
        return self.out((by_rows + by_columns) * F.silu(z))


class Attention(nn.Module):
    """[B,H,W,D] to the same: softmax attention between all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        heads = self.into(hidden).flatten(1, 2).unflatten(-1, (3, HEADS, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).view_as(hidden))


class Block(nn.Module):
    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.place = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.mixer, self.after = nn.LayerNorm(width), mixer, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.mixer(self.norm(x))
        return x + self.mlp(self.after(x))


class Classifier(nn.Module):
    """image [B,3,height,width] to scores [B,10]."""

    def __init__(self, mixer: type[nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.Sequential(*[Block(WIDTH, mixer(WIDTH)) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.blocks(self.patches(image).permute(0, 2, 3, 1))
        return {"scores": self.head(self.norm(x).mean((1, 2)))}


def scanner() -> nn.Module:
    torch.manual_seed(0)
    return Classifier(Scans)


def attender() -> nn.Module:
    torch.manual_seed(0)
    return Classifier(Attention)
