"""Reads a small model's prompts in chunks and on, in ONNX Runtime and in PyTorch, beside the original in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seqexport.exporter.causal_lm import discover_states, trace
from seqexport.exporter.explain import explained
from seqexport.exporter.models import refuse_unsupported
from seqexport.exporter.patches import rotary
from seqexport.exporter.states import GraphStates
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.experts import experts_implementation
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.pytorch.time_steps import limited_time_steps
from seqexport.runtimes.quiet import quiet
from tests.ops.conformance import assert_as_accurate_as_torch
from tests.runtimes.tiny import bundle_of

STEPS = 20
CAPACITY = 40
WIDEST = 4
"""The kernel of the widest convolution of any family: what a chunk leaves behind reaches so far into the next."""

Floats = NDArray[np.floating]
Lengths = NDArray[np.int32]


Feed = Callable[[NDArray[np.int64], Lengths], Floats]
"""Feeds int64[rows, L] and the valid tokens of each row; gives the logits [rows, L, vocab]."""


@dataclass
class Exported:
    """A family's original, and its graph opened in ONNX Runtime."""

    model: PreTrainedModel
    specs: list[StateSpec]
    session: ort.InferenceSession

    def call(
        self, tokens: NDArray[np.int64], seq_lens: Lengths, past: Lengths, states: dict[str, Floats]
    ) -> tuple[Floats, dict[str, Floats]]:
        inputs = {"input_ids": tokens, "seq_lens": seq_lens, "past_lens": past, **states}
        names = {value.name for value in self.session.get_inputs()}
        logits, *present = self.session.run(None, {name: x for name, x in inputs.items() if name in names})
        return logits, {spec.past_name: x for spec, x in zip(self.specs, present, strict=True)}

    def empty_states(self, batch: int) -> dict[str, Floats]:
        """Zeros, and NaN where a cache has no token yet."""
        return {
            spec.past_name: np.full(spec.sizes(batch, CAPACITY), np.nan if spec.grows else 0.0, spec.dtype)
            for spec in self.specs
        }

    def feed(self, batch: int) -> Feed:
        states, past = self.empty_states(batch), np.zeros(batch, np.int32)

        def feed(tokens: NDArray[np.int64], seq_lens: Lengths) -> Floats:
            nonlocal states, past
            logits, states = self.call(tokens, seq_lens, past, states)
            past = past + seq_lens
            return logits

        return feed


def torch_feed(model: PreTrainedModel, batch: int) -> Feed:
    """The original through our PyTorch runner."""
    session = TorchRunner(bundle_of(model, logits="all", capacity=CAPACITY), model).session(batch)
    return session.prefill


def read(feed: Feed, rows: Sequence[Tensor], prompts: Sequence[int], edges: Sequence[int] = ()) -> list[Tensor]:
    """Each row's logits: of its prompt, fed in chunks that end at the edges, then token by token."""
    longest = max(prompts)
    logits: list[list[Floats]] = [[] for _ in rows]
    ends = [*edges, longest, *range(longest + 1, longest + STEPS)]
    for start, end in zip([0, *ends], ends, strict=False):
        tokens, valid = _piece(rows, prompts, start, end)
        for row, n, x in zip(logits, valid, feed(tokens, valid), strict=True):
            row += list(x[:n])
    return [torch.from_numpy(np.stack(row)) for row in logits]


def _piece(rows: Sequence[Tensor], prompts: Sequence[int], start: int, end: int) -> tuple[NDArray[np.int64], Lengths]:
    """What each row is fed from one position of the longest prompt to another; all go on together after it."""
    longest = max(prompts)
    tokens, valid = np.zeros((len(rows), end - start), np.int64), np.zeros(len(rows), np.int32)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        part = row[start : min(end, prompt)] if end <= longest else row[prompt + start - longest :][: end - start]
        tokens[i, : len(part)], valid[i] = part, len(part)
    return tokens, valid


@dataclass(frozen=True)
class Reading:
    """What the original makes of a prompt.

    Attributes:
        ids: the prompt and the tokens that it goes on with, but for the last.
        tokens: those that it goes on with.
        logits: of all, with its own cache.
        exact: of all, in float64 without a cache.
    """

    prompt: int
    ids: Tensor
    tokens: list[int]
    logits: Tensor
    exact: Tensor


def original(model: PreTrainedModel, prompt: Tensor) -> Reading:
    ids = prompt[None]
    with quiet(), torch.no_grad(), limited_time_steps(model)():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        prefill = model(ids).logits[0, :-1]
    read = out.sequences[:, :-1]
    short = rotary.short_frequencies(model, GraphStates())  # longrope writes a float32 buffer
    with quiet(), torch.no_grad(), short, experts_implementation(model, "eager"), float64_arithmetic():
        exact = model(read, use_cache=False).logits[0]
    tokens = out.sequences[0, len(prompt) :].tolist()
    return Reading(len(prompt), read[0], tokens, torch.cat([prefill, *out.logits]), exact)


def open_session(graph: ir.Model, library: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])


def export(model: PreTrainedModel, *, last_only: bool = False, opset: int = 20) -> tuple[list[StateSpec], ir.Model]:
    with quiet(), explained(model):
        refuse_unsupported(model)
        specs = discover_states(model)
        return specs, trace(model, specs, opset=opset, last_only=last_only)


def assert_reads(start: Callable[[int], Feed], model: PreTrainedModel, expected: Sequence[Reading]) -> None:
    """As accurate as PyTorch: whole, in chunks with an edge wherever a convolution sees it, then token by token.

    Args:
        start: with nothing read yet, by the number of rows.
    """
    rows, lengths = [each.ids for each in expected], [each.prompt for each in expected]
    for edges in [(), (4, 8), *((edge,) for edge in range(1, WIDEST + 2))]:
        for ours, own in zip(read(start(len(rows)), rows, lengths, edges), expected, strict=True):
            assert_as_accurate_as_torch([ours], [own.logits], [own.exact], model.dtype)
            if model.dtype == torch.float32:
                assert ours[own.prompt - 1 :].argmax(-1).tolist() == own.tokens
