"""Each family, from a checkpoint to stock ONNX Runtime, against the unpatched original in float64 without a cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from seqexport.exporter.causal_lm import discover_states, trace
from seqexport.exporter.models import explained, refuse_unsupported
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.patches import rotary
from seqexport.exporter.states import GraphStates
from seqexport.exporter.targets import FUSIONS
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.pytorch.experts import experts_implementation
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from seqexport.runtimes.pytorch.time_steps import limited_time_steps
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import EXPORTED, REFUSED, REFUSED_IN_TRACING, VOCAB, build, save
from tests.ops.conformance import assert_as_accurate_as_torch
from tests.support import Case, cases

LENGTHS = (9, 5, 1)
STEPS = 20
CAPACITY = 40
WIDEST = 4
"""The kernel of the widest convolution of any family: what a chunk leaves behind reaches so far into the next."""

Floats = NDArray[np.floating]
Lengths = NDArray[np.int32]


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

    def read(self, rows: Sequence[Tensor], prompts: Sequence[int], edges: Sequence[int] = ()) -> list[Tensor]:
        """Each row's logits: of its prompt, fed in chunks that end at the edges, then token by token."""
        longest, states, past = max(prompts), self.empty_states(len(rows)), np.zeros(len(rows), np.int32)
        logits: list[list[Floats]] = [[] for _ in rows]
        ends = [*edges, longest, *range(longest + 1, longest + STEPS)]
        for start, end in zip([0, *ends], ends, strict=False):
            tokens, valid = _piece(rows, prompts, start, end)
            found, states = self.call(tokens, valid, past, states)
            past = past + valid
            for row, n, x in zip(logits, valid, found, strict=True):
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


def export(model: PreTrainedModel, *, last_only: bool = False) -> tuple[list[StateSpec], ir.Model]:
    with quiet(), explained(model):
        refuse_unsupported(model)
        specs = discover_states(model)
        return specs, trace(model, specs, opset=20, last_only=last_only)


Traced = Callable[[str, str], tuple[PreTrainedModel, list[StateSpec], ir.Model]]


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """A family's model in a dtype, from a checkpoint on disk, and its graph."""
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def saved(name: str) -> Path:
        return save(EXPORTED[name], root / name)

    @functools.cache
    def once(name: str, dtype: str) -> tuple[PreTrainedModel, list[StateSpec], ir.Model]:
        model = load_original(str(saved(name)), dtype=dtype)
        return model, *export(model)

    return once


@pytest.fixture(scope="session")
def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="session")
def readings(traced: Traced, prompts: list[Tensor]) -> Callable[[str, str], list[Reading]]:
    return functools.cache(lambda name, dtype: [original(traced(name, dtype)[0], prompt) for prompt in prompts])


@pytest.mark.parametrize("case", cases(), ids=str)
def test_family_gives_the_originals_logits_and_tokens(
    case: Case,
    traced: Traced,
    readings: Callable[[str, str], list[Reading]],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("support", case.record())
    library = request.getfixturevalue("native_library")("onnxruntime") if case.library else None
    model, specs, graph = traced(case.family, case.dtype)
    graph = graph.clone()
    for fuse in FUSIONS if case.fused else ():
        fuse(graph)
    add_bodies(graph)
    exported = Exported(model, specs, open_session(graph, library))
    expected = readings(case.family, case.dtype)
    rows, lengths, dtype = [each.ids for each in expected], [each.prompt for each in expected], model.dtype
    for edges in [(), (4, 8), *((edge,) for edge in range(1, WIDEST + 2))]:
        for ours, own in zip(exported.read(rows, lengths, edges), expected, strict=True):
            assert_as_accurate_as_torch([ours], [own.logits], [own.exact], dtype)
            if dtype == torch.float32:
                assert ours[own.prompt - 1 :].argmax(-1).tolist() == own.tokens


@pytest.mark.parametrize("name", ["mamba", "gpt2"])
def test_last_only_gives_each_rows_last_valid_token(name: str, prompts: list[Tensor]) -> None:
    model = build(EXPORTED[name])
    specs, graph = export(model, last_only=True)
    add_bodies(graph)
    exported = Exported(model, specs, open_session(graph))
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).numpy()
    lengths = np.array(LENGTHS, np.int32)
    logits, _ = exported.call(padded, lengths, np.zeros_like(lengths), exported.empty_states(len(prompts)))
    assert logits.shape == (len(prompts), 1, VOCAB)
    for row, prompt in zip(logits, prompts, strict=True):
        expected = exported.model(prompt[None]).logits[0, -1:]
        torch.testing.assert_close(torch.from_numpy(row), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_family_is_refused_by_name(name: str) -> None:
    make, expected = REFUSED[name]
    with quiet():
        model = make()
    with pytest.raises(UserError) as error:
        refuse_unsupported(model)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert type(model).__name__ in str(error.value)


@pytest.mark.parametrize("name", REFUSED_IN_TRACING)
def test_family_is_refused_by_what_it_does(name: str) -> None:
    make, expected = REFUSED_IN_TRACING[name]
    model = build(make)
    refuse_unsupported(model)
    with pytest.raises(UserError) as error, quiet(), explained(model):
        discover_states(model)
    line = str(error.value)
    assert line.startswith(f"{type(model).__name__} cannot be exported: ")
    assert line.endswith(expected)
    assert "\n" not in line
