"""Times a whole model in PyTorch, as transformers runs it: a prompt, then single tokens, eager and compiled.

    python -m seqexport.runtimes.benchmarks.torch_speed CHECKPOINT [--expect-peers] [--lock FILE]

float16, batch 1. A time counts from the tokens on the host to the logits of the last one on the host; median, warm.
``--expect-peers`` fails unless transformers calls the kernels of mamba_ssm and causal-conv1d.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import CONTEXT, PEERS, PROMPT, PROMPT_REPEATS, STEPS, WARM_STEPS
from seqexport.runtimes.benchmarks.timing import seconds

EXTENSIONS = {"selective_scan_cuda": ("fwd",), "causal_conv1d_cuda": ("causal_conv1d_fwd", "causal_conv1d_update")}
"""Compiled modules of mamba_ssm and causal-conv1d, and those of their functions that inference calls."""


class Decoder:
    """A model and one cache, fed from the host.

    Args:
        compiled: decode through torch.compile(mode="reduce-overhead"); where there is attention, over a static cache.
    """

    def __init__(self, model: Any, *, compiled: bool) -> None:
        self.model, self.compiled = model, compiled
        self.recurrent = model.config.model_type == "mamba"
        self.step_forward = torch.compile(model.forward, mode="reduce-overhead") if compiled else model.forward
        self.cache: Any = None

    def prefill(self, tokens: Tensor) -> Tensor:
        """int64 [1, L] on the host to float32 [1, vocab] on the host, into a new cache."""
        if self.compiled and not self.recurrent:
            self.cache = StaticCache(self.model.config, max_cache_len=CONTEXT + 2 * WARM_STEPS + STEPS)
        else:
            self.cache = DynamicCache(config=self.model.config)
        return self._run(self.model.forward, tokens)

    def step(self, token: Tensor) -> Tensor:
        """int64 [1, 1] on the host to float32 [1, vocab] on the host."""
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        return self._run(self.step_forward, token)

    def _run(self, forward: Callable[..., Any], tokens: Tensor) -> Tensor:
        cache = {"cache_params" if self.recurrent else "past_key_values": self.cache}
        ids = tokens.to(self.model.device)
        logits: Tensor = forward(input_ids=ids, use_cache=True, logits_to_keep=1, **cache).logits
        return logits[:, -1].float().cpu()


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """How often the compiled functions of mamba_ssm and causal-conv1d are called."""
    counts: dict[str, int] = {}
    originals: list[tuple[Any, str, Any]] = []
    for module in (sys.modules[name] for name in EXTENSIONS if name in sys.modules):
        for name in EXTENSIONS[module.__name__]:
            original = getattr(module, name)
            originals.append((module, name, original))
            setattr(module, name, _counting(original, name, counts))
    try:
        yield counts
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _counting(original: Callable[..., Any], name: str, counts: dict[str, int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        return original(*args, **kwargs)

    return call


def check_peers(decoder: Decoder, tokens: Tensor) -> dict[str, int]:
    """Calls of the peers' kernels in one prompt and one step.

    Raises:
        ImportError: they cannot be imported, which transformers would pass over in silence.
        SystemExit: transformers used its own PyTorch code for any layer.
    """
    for name in PEERS:
        importlib.import_module(name)
    with counted() as counts:
        decoder.prefill(tokens[:, :CONTEXT])
        decoder.step(tokens[:, :1])
    layers = decoder.model.config.num_hidden_layers
    wanted = {name: layers for names in EXTENSIONS.values() for name in names}
    if counts != wanted:
        raise SystemExit(f"transformers does not run the peers' kernels: calls {counts}, expected {wanted}")
    return counts


def measure(load: Callable[[], Any], *, expect_peers: bool, lock: Path | None) -> dict[str, Any]:
    """Seconds of a prompt, and of a step eager and compiled; where compiling fails, the reason."""
    found: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    with together(lock) if lock else nullcontext():
        model = load()
        tokens = torch.randint(0, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        token = tokens[:, :1]
        decoders = {"eager": Decoder(model, compiled=False), "compiled": Decoder(model, compiled=True)}
        if expect_peers:
            found["peers_called"] = check_peers(decoders["eager"], tokens)
        for name, decoder in tuple(decoders.items()):
            try:
                decoder.prefill(tokens[:, :CONTEXT])
                _steps(decoder, token)
            except Exception as error:
                if name == "eager":
                    raise
                found["compiled_error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                del decoders[name]
    with alone(lock) if lock else nullcontext():
        for name, decoder in decoders.items():
            _steps(decoder, token)
            found[f"{name}_step"] = seconds(functools.partial(decoder.step, token), STEPS)
        found["cudagraph_skips"] = int(counters["inductor"]["cudagraph_skips"])
        eager = decoders["eager"]
        eager.prefill(tokens)
        slow = eager.recurrent and not expect_peers
        found["prefill"] = seconds(lambda: eager.prefill(tokens), 1 if slow else PROMPT_REPEATS)
    return found


def _steps(decoder: Decoder, token: Tensor) -> None:
    for _ in range(WARM_STEPS):
        decoder.step(token)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--expect-peers", is_flag=True)
@click.option("--lock", type=click.Path(path_type=Path))
def main(checkpoint: Path, expect_peers: bool, lock: Path | None) -> None:
    with torch.no_grad():
        click.echo(json.dumps(measure(lambda: load(checkpoint), expect_peers=expect_peers, lock=lock)))


def load(checkpoint: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
    return model.eval().to("cuda")


if __name__ == "__main__":
    run(main)
