"""Each family, from a checkpoint to stock ONNX Runtime, against the unpatched original with its own cache."""

from __future__ import annotations

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
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import EXPORTED, REFUSED, REFUSED_IN_TRACING, VOCAB, build, save
from tests.ops.conformance import assert_as_accurate_as_torch

LENGTHS = (9, 5, 1)
STEPS = 20
CAPACITY = 40
Floats = NDArray[np.float32]
Lengths = NDArray[np.int32]


@dataclass
class Exported:
    """A family's original, and its graph opened in stock ONNX Runtime."""

    model: PreTrainedModel
    specs: list[StateSpec]
    session: ort.InferenceSession

    def call(
        self,
        tokens: NDArray[np.int64],
        seq_lens: NDArray[np.int32],
        past: NDArray[np.int32],
        states: dict[str, Floats],
    ) -> tuple[Floats, dict[str, Floats]]:
        inputs = {"input_ids": tokens, "seq_lens": seq_lens, "past_lens": past, **states}
        names = {value.name for value in self.session.get_inputs()}
        logits, *present = self.session.run(None, {name: x for name, x in inputs.items() if name in names})
        return logits, {spec.past_name: x for spec, x in zip(self.specs, present, strict=True)}

    def empty_states(self, batch: int) -> dict[str, Floats]:
        """Zeros, and NaN where a cache has no token yet."""
        return {
            spec.past_name: np.full(spec.sizes(batch, CAPACITY), np.nan if spec.grows else 0.0, np.float32)
            for spec in self.specs
        }

    def generate(self, prompts: list[Tensor], chunk: int) -> list[Tensor]:
        """Each row's logits: of its prompt, fed in chunks, then of greedy decoding."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).numpy()
        states, past = self.empty_states(len(prompts)), np.zeros_like(lengths)
        rows: list[list[Floats]] = [[] for _ in prompts]
        for start in range(0, padded.shape[1], chunk):
            part = padded[:, start : start + chunk]
            valid = np.clip(lengths - start, 0, part.shape[1]).astype(np.int32)
            logits, states = self.call(part, valid, past, states)
            past = past + valid
            for row, n, x in zip(rows, valid, logits, strict=True):
                row += list(x[:n])
        for _ in range(STEPS - 1):
            tokens = np.array([[row[-1].argmax()] for row in rows])
            logits, states = self.call(tokens, np.ones_like(past), past, states)
            past = past + 1
            for row, x in zip(rows, logits, strict=True):
                row.append(x[0])
        return [torch.from_numpy(np.stack(row)) for row in rows]


def export(model: PreTrainedModel, *, last_only: bool = False, fused: bool = False) -> Exported:
    with quiet(), explained(model):
        refuse_unsupported(model)
        specs = discover_states(model)
        graph = trace(model, specs, opset=20, last_only=last_only)
    for fuse in FUSIONS if fused else ():
        fuse(graph)
    add_bodies(graph)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    data = ir.to_proto(graph).SerializeToString()
    return Exported(model, specs, ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]))


@pytest.fixture(scope="session", params=EXPORTED)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(EXPORTED[request.param], tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "fused"])
def family(request: pytest.FixtureRequest, checkpoint: Path) -> Exported:
    return export(load_original(str(checkpoint)), fused=request.param)


@pytest.fixture(scope="session")
def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(VOCAB, (length,), generator=generator) for length in LENGTHS]


def original(model: PreTrainedModel, prompt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One row on its own: its greedy tokens, its logits with the original's cache, and those in float64."""
    ids = prompt[None]
    with quiet(), torch.no_grad():
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
        with rotary.short_frequencies(model, GraphStates()), float64_arithmetic():  # longrope writes a float32 buffer
            exact = model(out.sequences[:, :-1], use_cache=False).logits[0]
    return out.sequences[0, len(prompt) :], torch.cat([prefill, *out.logits]), exact


def test_family_gives_the_originals_logits_and_tokens(family: Exported, prompts: list[Tensor]) -> None:
    whole = family.generate(prompts, chunk=max(LENGTHS))
    chunked = family.generate(prompts, chunk=4)
    for prompt, *ours in zip(prompts, whole, chunked, strict=True):
        tokens, logits, exact = original(family.model, prompt)
        for x in ours:
            assert x[len(prompt) - 1 :].argmax(-1).tolist() == tokens.tolist()
            assert_as_accurate_as_torch([x], [logits], [exact], torch.float32)


@pytest.mark.parametrize("name", ["mamba", "gpt2"])
def test_last_only_gives_each_rows_last_valid_token(name: str, prompts: list[Tensor]) -> None:
    exported = export(build(EXPORTED[name]), last_only=True)
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
