"""A scan of a map in several orders, as vision models write it, with what differs among them left open."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor, nn

from seqexport.exporter.trace import trace_module
from seqexport.plugins.ops.selective_scan import selective_scan

Stack = Callable[[Tensor], Tensor]
Merge = Callable[[Tensor, int, int], Tensor]
K, D, N, R = 4, 6, 3, 2
AXES = {0: "batch", 2: "room", 3: "seq"}


def there_and_back(x: Tensor) -> Tensor:
    """[B,D,H,W] to [B,K,D,L]: rows, columns, and both backwards."""
    both = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
    return torch.cat([both, both.flip(-1)], 1)


def viewed(x: Tensor) -> Tensor:
    """The same, with MambaIR's views of what has their sizes already."""
    batch, _, height, width = x.shape
    L = height * width
    columns = x.transpose(2, 3).contiguous().view(batch, -1, L)
    both = torch.stack([x.contiguous().view(batch, -1, L), columns], dim=1).view(batch, 2, -1, L)
    return torch.cat([both, torch.flip(both, dims=[-1])], dim=1).view(batch, K, -1, L)


def back_and_there(x: Tensor) -> Tensor:
    both = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
    return torch.cat([both.flip(-1), both], 1)


def summed_first(y: Tensor, height: int, width: int) -> Tensor:
    """[B,K,D,L] to [B,D,L], as VMamba merges what ``there_and_back`` stacked."""
    y = y[:, :2] + y[:, 2:].flip(-1)
    return y[:, 0] + _upright(y[:, 1], height, width)


def summed_last(y: Tensor, height: int, width: int) -> Tensor:
    """The same, as MambaIR does."""
    back = y[:, 2:4].flip(-1).view(y.shape[0], 2, -1, height * width)
    return y[:, 0] + back[:, 0] + _upright(y[:, 1], height, width) + _upright(back[:, 1], height, width)


def added_up(y: Tensor, height: int, width: int) -> Tensor:
    """All directions at once, where they lie."""
    return y.sum(1)


def _upright(y: Tensor, height: int, width: int) -> Tensor:
    return y.unflatten(-1, (width, height)).transpose(2, 3).flatten(2)


class MapScan(nn.Module):
    """x [B,D,H,W] to [B,H,W,D]."""

    def __init__(self, stack: Stack = there_and_back, merge: Merge = summed_first, **more: float) -> None:
        """``more``: an ``offset`` of the steps, or ``ragged``, which tells the scan how long rows are."""
        super().__init__()
        self.stack, self.merge = stack, merge
        self.offset, self.ragged = more.get("offset", 0.0), bool(more.get("ragged"))
        g = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn(K, R + 2 * N, D, generator=g) * D**-0.5)
        self.step = nn.Parameter(torch.randn(K, D, R, generator=g))
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(K * D, 1))
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        seen = self.stack(x)
        low, B, C = torch.einsum("bkdl,kcd->bkcl", seen, self.mix).split([R, N, N], 2)
        dt = torch.einsum("bkrl,kdr->bkdl", low, self.step)
        dt = dt + self.offset if self.offset else dt
        u, dt = (each.reshape(batch, K * D, -1).transpose(1, 2) for each in (seen, dt))
        B, C = (each.permute(0, 3, 1, 2) for each in (B, C))
        lens = torch.full((batch,), height * width, dtype=torch.int32) if self.ragged else None
        y, _ = selective_scan(u, dt, -self.A_log.exp(), B, C, seq_lens=lens, dt_softplus=True)
        y = self.merge(y.transpose(1, 2).reshape(batch, K, D, -1), height, width)
        return self.norm(y.transpose(1, 2)).unflatten(1, (height, width)).contiguous()


def traced(module: nn.Module, *, fixed: bool = False) -> ir.Model:
    """The graph of x [batch,D,room,seq], or of [batch,D,9,5]."""
    axes = {0: "batch"} if fixed else AXES
    return trace_module(module, {"x": torch.zeros(2, D, 9, 5)}, {"x": axes}).graph


def scan_of(graph: ir.Model) -> ir.Node:
    (scan,) = [node for node in graph.graph if node.op_type == "SelectiveScan"]
    return scan
