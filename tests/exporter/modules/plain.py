"""Modules without a scan, as an export is asked for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Filter(nn.Module):
    """An image classifier whose state is carried by name from frame to frame."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        seen = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        after = torch.tanh(seen + h)
        return {"scores": self.head(after), "h_after": after}


INPUTS = {"x": torch.zeros(1, 3, 6, 8), "h": torch.zeros(1, 8)}
DYNAMIC = {"x": ("batch", 3, "height", "width"), "h": {0: "batch"}}
STATES = {"h": "h_after"}


class Tied(nn.Module):
    """Token ids in, scores out, by one matrix of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(ids)))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(1, 4)[:, : x.shape[1]].expand(1, 4)


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x - x)


def make() -> nn.Module:
    return Filter()


def raises() -> nn.Module:
    raise ValueError("no configuration of this name:\n  tiny")


def ends() -> nn.Module:
    raise SystemExit(5)


def number() -> int:
    return 3


made = Filter(1)
