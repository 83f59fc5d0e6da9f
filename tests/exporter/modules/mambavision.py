"""MambaVision's stage (Hatamizadeh & Kautz 2024, figure 3): a scan beside a plain path, then attention to all tokens.

Both mixers see windows of a map; convolutions before them have batch norms. Attention keeps no cache.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor, nn

WINDOW = 4


class ScanMixer(nn.Module):
    """Half of the channels through convolution and scan, half through a convolution alone."""

    def __init__(self, width: int, states: int = 4, rank: int = 2) -> None:
        super().__init__()
        self.half, self.states, self.rank = width // 2, states, rank
        self.into, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.conv_x = nn.Conv1d(self.half, self.half, 3, padding="same", groups=self.half, bias=False)
        self.conv_z = nn.Conv1d(self.half, self.half, 3, padding="same", groups=self.half, bias=False)
        self.mix, self.step = nn.Linear(self.half, rank + 2 * states, bias=False), nn.Linear(rank, self.half)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(self.half, 1))
        self.D = nn.Parameter(torch.ones(self.half))

    def forward(self, hidden: Tensor) -> Tensor:
        x, z = self.into(hidden).transpose(1, 2).chunk(2, 1)
        x, z = F.silu(self.conv_x(x)), F.silu(self.conv_z(z))
        low, B, C = self.mix(x.transpose(1, 2)).split([self.rank, self.states, self.states], -1)
        delta = self.step(low).transpose(1, 2)
        y = selective_scan_fn(
            x, delta, -torch.exp(self.A_log.float()), B.transpose(1, 2), C.transpose(1, 2), self.D.float(), z=None,
            delta_bias=self.step.bias.float(), delta_softplus=True, return_last_state=None,
        )  # fmt: skip
        return self.out(torch.cat([y, z], 1).transpose(1, 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.into, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in self.into(hidden).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm, self.mixer, self.after = nn.LayerNorm(width), mixer, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.mixer(self.norm(x))
        return x + self.scale * self.mlp(self.after(x))


class MambaVision(nn.Module):
    """images [B,3,H,W], H and W multiples of 16, to classes [B,5]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.layers = nn.Sequential(Layer(width, ScanMixer(width)), Layer(width, Attention(width)))
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        batch, width, H, W = x.shape
        rows, columns = H // WINDOW, W // WINDOW
        windows = x.view(batch, width, rows, WINDOW, columns, WINDOW).permute(0, 2, 4, 3, 5, 1)
        y = self.layers(windows.reshape(-1, WINDOW * WINDOW, width))
        y = y.view(batch, rows, columns, WINDOW, WINDOW, width).permute(0, 5, 1, 3, 2, 4).reshape(batch, width, H, W)
        return self.head(self.norm(y).mean((2, 3)))


def make() -> nn.Module:
    torch.manual_seed(0)
    return MambaVision()


INPUTS = {"images": torch.zeros(2, 3, 32, 48)}
DYNAMIC = {"images": ("batch", 3, "height", "width")}
OPS = {"SelectiveScan": 1}
