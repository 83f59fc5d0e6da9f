"""Times a whole model in PyTorch, as transformers runs it: a prompt, then single tokens, eager and compiled.

    python -m seqexport.runtimes.benchmarks.torch_speed MODEL [--expect-peers] [--lock FILE]

MODEL is a shape of checkpoints.py, whose random weights are made here once more, or a checkpoint's folder. float16,
batch 1. A time counts from the tokens on the host to the logits of the last one on the host; median, warm.
``--expect-peers`` fails unless transformers calls the kernels of mamba_ssm and causal-conv1d.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from seqexport.runtimes.base import Tokens
from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.checkpoints import SHAPES, random_model
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import CONTEXT, PROMPT_REPEATS, STEPS, WARM_STEPS
from seqexport.runtimes.benchmarks.timing import answers, random_prompt, seconds


class Decoder:
    """A model and one cache, fed from the host.

    Args:
        compiled: decode through torch.compile(mode="reduce-overhead"); where there is attention, over a static cache.
    """

    def __init__(self, model: Any, *, compiled: bool) -> None:
        self.model, self.compiled = model, compiled
        parameters = inspect.signature(model.forward).parameters
        self.cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        self.step_forward = torch.compile(model.forward, mode="reduce-overhead") if compiled else model.forward
        self.cache: Any = None

    def prefill(self, tokens: Tensor) -> Tensor:
        """int64 [1, L] on the host to float32 [1, vocab] on the host, into a new cache."""
        if self.compiled and self.cache_argument == "past_key_values":
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
        arguments = {self.cache_argument: self.cache, "input_ids": tokens.to(self.model.device)}
        logits: Tensor = forward(use_cache=True, logits_to_keep=1, **arguments).logits
        return logits[:, -1].float().cpu()


def measure(load: Callable[[], Any], *, expect_peers: bool, lock: Path | None) -> dict[str, Any]:
    """Seconds of a prompt, and of a step eager and compiled, where compiling fails the reason; and what it answers, and
    the same weights in float32."""
    found: dict[str, Any] = {"torch": torch.__version__, "transformers": transformers.__version__}
    with together(lock) if lock else nullcontext():
        model = load()
        prompt = random_prompt(model.config.vocab_size)
        tokens = torch.from_numpy(prompt)
        token = tokens[:, :1]
        decoders = {"eager": Decoder(model, compiled=False), "compiled": Decoder(model, compiled=True)}
        if expect_peers:
            found["peers_called"] = peers.require_called(model, lambda: _begin(decoders["eager"], tokens, 1))
        found["answers"] = _answers(decoders["eager"], prompt)
        for name, decoder in tuple(decoders.items()):
            try:
                _begin(decoder, tokens, WARM_STEPS)
            except Exception as error:
                if name == "eager":
                    raise
                found["compiled_error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
                del decoders[name]
    with alone(lock) if lock else nullcontext():
        peers.tune_again()
        for name, decoder in decoders.items():
            _steps(decoder, token, WARM_STEPS)
            found[f"{name}_step"] = seconds(functools.partial(decoder.step, token), STEPS)
        found["cudagraph_skips"] = int(counters["inductor"]["cudagraph_skips"])
        eager = decoders["eager"]
        eager.prefill(tokens)
        slow = peers.layers(model) and not expect_peers
        found["prefill"] = seconds(lambda: eager.prefill(tokens), 1 if slow else PROMPT_REPEATS)
    with together(lock) if lock else nullcontext():
        found["exact"] = _answers(Decoder(model.float(), compiled=False), prompt)
    return found


def _answers(decoder: Decoder, prompt: Tokens) -> dict[str, list[Any]]:
    decoder.prefill(torch.from_numpy(prompt[:, :CONTEXT]))
    return answers(lambda one: decoder.step(torch.from_numpy(one)).numpy(), prompt[:, CONTEXT:])


def _begin(decoder: Decoder, tokens: Tensor, steps: int) -> None:
    decoder.prefill(tokens[:, :CONTEXT])
    _steps(decoder, tokens[:, :1], steps)


def _steps(decoder: Decoder, token: Tensor, steps: int) -> None:
    for _ in range(steps):
        decoder.step(token)


@click.command()
@click.argument("model")
@click.option("--expect-peers", is_flag=True)
@click.option("--lock", type=click.Path(path_type=Path))
def main(model: str, expect_peers: bool, lock: Path | None) -> None:
    with torch.no_grad():
        click.echo(json.dumps(measure(lambda: load(model), expect_peers=expect_peers, lock=lock)))


def load(model: str) -> Any:
    if model in SHAPES:
        return random_model(SHAPES[model]()).eval()
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16)
    return loaded.eval().to("cuda")


if __name__ == "__main__":
    run(main)
