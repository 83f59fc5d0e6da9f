"""What the program that times the kernels takes for the GPU's clock."""

from __future__ import annotations

import pytest
import torch

from seqexport.runtimes.benchmarks.kernels import clock_during


def test_the_clock_is_read_while_the_gpu_works(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[int] = []
    monkeypatch.setattr(torch.cuda, "clock_rate", lambda: 1980 if queued else 345)
    monkeypatch.setattr(torch.cuda, "synchronize", queued.clear)
    assert clock_during(lambda: queued.append(1), seconds=0.01) == 1980e6
