"""What the plugins ask for covers what the kernels ask for, on the GPU at hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from seqexport.plugins.kernels.c_api import Kernels
from tests.conftest import leave_out

LENGTHS = (1, 7, 128, 2048, 65536)


def test_the_kernels_never_want_more_than_the_plugins_ask_for(native_library: Callable[[str], Path]) -> None:
    if not torch.cuda.is_available():
        leave_out("tests/tensorrt/test_workspace.py left out: no CUDA device")
    kernels = Kernels(native_library("kernels"))
    assert max(scans(kernels)) <= kernels.ops["selective_scan"].workspace
    assert max(ssds(kernels)) <= kernels.ops["ssd_scan"].workspace
    assert max(attentions(kernels)) <= kernels.ops["causal_attention"].workspace


def scans(kernels: Kernels) -> list[int]:
    params = kernels.ops["selective_scan"].struct
    return [
        kernels.workspace("selective_scan", params(dtype=1, batch=B, length=L, channels=D, states=N, groups=1))
        for B, L, D, N in itertools.product((1, 3, 8), LENGTHS, (64, 1536, 5120), (1, 8, 16, 128, 256))
    ]


def ssds(kernels: Kernels) -> list[int]:
    params = kernels.ops["ssd_scan"].struct
    return [
        kernels.workspace("ssd_scan", params(dtype=1, batch=B, length=L, heads=H, head_size=P, states=N, groups=1))
        for B, L, H, (P, N) in itertools.product((1, 3, 8), LENGTHS, (1, 24, 128), ((64, 128), (256, 256), (7, 16)))
    ]


def attentions(kernels: Kernels) -> list[int]:
    params = kernels.ops["causal_attention"].struct
    return [
        kernels.workspace(
            "causal_attention",
            params(
                dtype=dtype, batch=B, length=L, query_heads=Hq, kv_heads=Hkv, key_dim=D, value_dim=D, capacity=65536
            ),
        )
        for dtype, B, L, (Hq, Hkv), D in itertools.product(
            (0, 1), (1, 3, 8), LENGTHS[:4], ((32, 8), (32, 32), (8, 1)), (64, 128, 256)
        )
    ]
