"""Points of a cloud in the order of each of their coordinates, read by Mamba, put back, and pooled."""

from __future__ import annotations

import torch
from mamba_ssm import Mamba
from torch import Tensor, nn


class Points(nn.Module):
    """points [B,P,3] to classes [B,4], and a label [B,P,2] for each point."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into, self.norms = nn.Linear(3, width), nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.mixers = nn.ModuleList([Mamba(width, d_state=4, d_conv=3) for _ in range(3)])
        self.classes, self.labels = nn.Linear(width, 4), nn.Linear(width, 2)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        x = self.into(points)
        for axis, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            order = points[..., axis].argsort(1)
            index = order.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            read = mixer(norm(x.gather(1, index)))
            x = x + torch.zeros_like(x).scatter(1, index, read)
        return self.classes(x.amax(1)), self.labels(x)


def make() -> nn.Module:
    torch.manual_seed(0)
    return Points()


INPUTS = {"points": torch.zeros(2, 9, 3)}
DYNAMIC = {"points": ("batch", "count", 3)}
OPS = {"SelectiveScan": 3, "CausalConv1d": 3}
