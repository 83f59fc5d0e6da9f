"""What is timed: each op, how, and at which shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from seqexport.runtimes.benchmarks.kernels import attention, convolution, experts, linear, scan, ssd
from seqexport.runtimes.benchmarks.kernels.report import Timed

CASES: dict[str, tuple[Callable[..., Timed], Sequence[tuple[object, ...]]]] = {
    "causal_conv1d": (
        convolution.measure,  # batch, tokens, channels
        [(8, 2048, 5120), (8, 2048, 1536), (1, 2048, 1536), (1, 1, 5120), (64, 1, 5120)],
    ),
    "selective_scan": (
        scan.measure,  # batch, tokens, channels
        [
            (1, 2048, 1536),
            (8, 2048, 1536),
            (8, 2048, 5120),
            (1, 16384, 1536),
            (1, 65536, 5120),
            (1, 1, 5120),
            (64, 1, 5120),
        ],
    ),
    "ssd_scan": (ssd.measure, list(ssd.WANTED)),
    "causal_attention": (
        attention.measure,  # batch, query heads, kv heads, tokens, tokens before them, head size
        [
            (1, 32, 32, 2048, 0, 64),
            (8, 32, 32, 2048, 0, 128),
            (1, 32, 8, 1, 32767, 64),
            (16, 32, 8, 1, 4095, 128),
            (1, 32, 32, 2048, 0, 64, torch.float32),
        ],
    ),
    "linear": (
        linear.measure,  # tokens, width, features of each projection
        [
            *(
                (tokens, *sizes)
                for tokens in (1, 4)
                for sizes in (
                    (768, (1536, 1536)),
                    (1536, (48, 16, 16)),
                    (1536, (768,)),
                    (2048, (4096, 4096)),
                    (7168, (2048,)),
                    (768, (50280,)),
                )
            ),
            (2048, 2048, (2048, 512, 512)),
            (2048, 7168, (2048,)),
        ],
    ),
    "experts": (
        experts.measure,  # tokens, width, experts, chosen, width of one; of Qwen3-30B-A3B and of Mixtral 8x7B
        [
            *((tokens, 2048, 128, 8, 768) for tokens in (1, 4, 8, 32, 2048)),
            *((tokens, 4096, 8, 2, 14336) for tokens in (1, 512)),
        ],
    ),
}
