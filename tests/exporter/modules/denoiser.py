"""An audio denoiser that hears frames as they come: its states are inputs and outputs, chunk by chunk as at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqexport import ops

K = 4


class Denoiser(nn.Module):
    """frames [B,T,F] to a mask of the same shape; conv [B,D,K-1] and scan [B,D,N] are what was heard before."""

    def __init__(self, bands: int = 9, channels: int = 12, states: int = 5) -> None:
        super().__init__()
        self.states, self.into, self.out = states, nn.Linear(bands, channels), nn.Linear(channels, bands)
        self.weight, self.bias = nn.Parameter(torch.randn(channels, K) * 0.5), nn.Parameter(torch.randn(channels) * 0.1)
        self.mix, self.step = nn.Linear(channels, 2 * states), nn.Linear(channels, channels)
        self.A_log, self.skip = nn.Parameter(torch.rand(channels, states)), nn.Parameter(torch.ones(channels))

    def forward(self, frames: Tensor, conv: Tensor, scan: Tensor) -> dict[str, Tensor]:
        x, heard = ops.causal_conv1d(self.into(frames), self.weight, self.bias, conv, activation="silu")
        B, C = self.mix(x).unsqueeze(2).chunk(2, -1)
        A = -torch.exp(self.A_log.float())
        y, kept = ops.selective_scan(x, self.step(x), A, B, C, self.skip.float(), past=scan, dt_softplus=True)
        return {"clean": torch.sigmoid(self.out(y)) * frames, "conv_after": heard, "scan_after": kept}


def make() -> nn.Module:
    torch.manual_seed(0)
    return Denoiser()


INPUTS = {"frames": torch.zeros(2, 11, 9), "conv": torch.zeros(2, 12, K - 1), "scan": torch.zeros(2, 12, 5)}
DYNAMIC = {"frames": {0: "batch", 1: "time"}, "conv": {0: "batch"}, "scan": {0: "batch"}}
STATES = {"conv": "conv_after", "scan": "scan_after"}
OPS = {"SelectiveScan": 1, "CausalConv1d": 1}
