"""Layers are repeated where alike ones are called alike. Whatever else a model does with them, it exports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

from seqexport.exporter import causal_lm
from seqexport.exporter.causal_lm import discover_states
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.quiet import quiet
from tests.conftest import Saved
from tests.exporter.families import SIZES, build, of
from tests.exporter.test_patches import global_state

LAYER = LlamaDecoderLayer.forward
Layer = Callable[..., Any]
Loop = Callable[[nn.ModuleList, Tensor, dict[str, Any]], Tensor]


def no_hidden_first(self: nn.Module, name: str, x: Tensor, **shared: Any) -> Tensor:
    return LAYER(self, x, **shared)


def scaled(self: nn.Module, hidden_states: Tensor, scale: Tensor, **shared: Any) -> Tensor:
    return LAYER(self, hidden_states, **shared) * scale


def with_none(self: nn.Module, hidden_states: Tensor, **shared: Any) -> tuple[Tensor, None]:
    return LAYER(self, hidden_states, **shared), None


def with_mean(self: nn.Module, hidden_states: Tensor, **shared: Any) -> tuple[Tensor, Tensor]:
    made = LAYER(self, hidden_states, **shared)
    return made, made.mean(-1, keepdim=True)


def other_names(self: nn.Module, *, x: Tensor, **shared: Any) -> Tensor:
    return LAYER(self, x, **shared)


def take_first(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for layer in layers:
        hidden, _ = layer(hidden, **shared)
    return hidden


def add_means(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    means = []
    for layer in layers:
        hidden, *mean = layer(hidden, **shared)
        means += mean
    return hidden + sum(means)


def by_keyword(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for layer in layers:
        hidden = layer(x=hidden, **shared)
    return hidden


def after_a_name(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for layer in layers:
        hidden = layer("a layer", hidden, **shared)
    return hidden


def after_its_number(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for number, layer in enumerate(layers):
        hidden = layer(number, hidden, **shared)
    return hidden


def each_its_scale(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for scale, layer in zip(torch.linspace(0.5, 1.5, len(layers)), layers, strict=True):
        hidden = layer(hidden, scale.to(hidden.dtype), **shared)
    return hidden


def something_between(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    for layer in layers:
        hidden = layer(hidden, **shared) * 0.5
    return hidden


def sum_of_all(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    total = torch.zeros_like(hidden)
    for layer in layers:
        hidden = layer(hidden, **shared)
        total = total + hidden
    return total


def input_kept(layers: nn.ModuleList, hidden: Tensor, shared: dict[str, Any]) -> Tensor:
    embedded = hidden
    for layer in layers:
        hidden = layer(hidden, **shared)
    return hidden + embedded


CASES: dict[str, tuple[Layer, Loop, str | None]] = {
    "hidden and None": (with_none, take_first, None),
    "hidden and a tensor": (with_mean, add_means, "layer 0 gives more than a hidden state"),
    "hidden and a tensor that nobody takes": (with_mean, take_first, "layer 0 gives more than a hidden state"),
    "keywords of other names": (other_names, by_keyword, None),
    "no tensor first": (no_hidden_first, after_a_name, None),
    "a number first": (no_hidden_first, after_its_number, "layer 1 is not given what layer 0 is"),
    "each its own scale": (scaled, each_its_scale, "layer 1 is not given what layer 0 is"),
    "something between them": (LAYER, something_between, None),
    "a sum of all": (LAYER, sum_of_all, None),
    "the first one's input kept": (LAYER, input_kept, None),
}
"""How a layer is written, how a model calls its layers, and why they are not repeated; None: they are."""


def model_forward(loop: Loop) -> Callable[..., Any]:
    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        hidden = self.embed_tokens(input_ids)
        cache = DynamicCache(config=self.config) if past_key_values is None else past_key_values
        if position_ids is None:
            position_ids = (torch.arange(hidden.shape[1]) + cache.get_seq_length())[None]
        mask = create_causal_mask(self.config, hidden, attention_mask, past_key_values=cache, position_ids=position_ids)
        shared = {
            "attention_mask": mask,
            "position_embeddings": self.rotary_emb(hidden, position_ids=position_ids),
            "past_key_values": cache,
        }
        return BaseModelOutputWithPast(self.norm(loop(self.layers, hidden, shared)), past_key_values=cache)

    return forward


@pytest.fixture
def llama() -> PreTrainedModel:
    return build(of("Llama", **SIZES | {"num_hidden_layers": 2}))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("seqexport.")]


@pytest.mark.parametrize("case", CASES)
def test_layers_are_repeated_where_that_changes_nothing(
    case: str, llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    layer, loop, reason = CASES[case]
    monkeypatch.setattr(LlamaDecoderLayer, "forward", layer)
    monkeypatch.setattr(LlamaModel, "forward", model_forward(loop))
    specs = discover_states(llama)
    with caplog.at_level(logging.DEBUG, logger="seqexport"), quiet():
        graph = causal_lm.trace(llama, specs, opset=20, last_only=False)
    told = said(caplog)
    assert len(told) == (reason is not None)
    assert all(line.startswith("LlamaForCausalLM is traced whole, not a layer of each kind: ") for line in told)
    assert reason is None or reason in told[0]
    ids = torch.arange(10).reshape(2, 5)
    (logits,) = answers(graph, ids, specs)
    torch.testing.assert_close(torch.from_numpy(logits), llama(ids).logits.detach(), rtol=1e-4, atol=1e-5)


def answers(graph: ir.Model, ids: Tensor, specs: list[StateSpec]) -> list[Any]:
    add_bodies(graph)
    batch, length = ids.shape
    feeds = {
        "input_ids": ids.numpy(),
        "seq_lens": np.full(batch, length, np.int32),
        "past_lens": np.zeros(batch, np.int32),
        **{spec.past_name: np.zeros(spec.sizes(batch, length), np.float32) for spec in specs},
    }
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(["logits"], feeds))


@pytest.mark.parametrize("case", ["hidden and None", "hidden and a tensor"])
def test_the_bundle_of_layers_that_give_a_pair_verifies(
    case: str, checkpoint: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, loop, _ = CASES[case]
    monkeypatch.setattr(LlamaDecoderLayer, "forward", layer)
    monkeypatch.setattr(LlamaModel, "forward", model_forward(loop))
    with quiet():
        bundle = export(ExportOptions(model=str(checkpoint("llama"))), tmp_path / "out", lambda stage: nullcontext())
    with open_runner("ort", bundle) as runner:
        assert [check for check in verify(runner, read_reference(bundle)) if not check.passed] == []


@pytest.mark.parametrize("fails", ["layer_stack", "representatives_only", "repeat_layers"])
def test_whatever_fails_the_model_is_traced_whole_and_left_as_it_was(
    fails: str, llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.model.layers[1].register_forward_pre_hook(lambda module, args: None)
    before, specs, called = global_state(llama), discover_states(llama), []

    def fail(*args: Any, **kwargs: Any) -> Any:
        called.append(args)
        raise ZeroDivisionError

    monkeypatch.setattr(causal_lm, fails, fail)
    with quiet():
        graph = causal_lm.trace(llama, specs, opset=20, last_only=True)
    assert called
    assert sum(node.op_type == "CausalAttention" for node in graph.graph) == 2
    assert global_state(llama) == before


def test_a_forward_of_a_layers_own_is_there_again_after_the_layers_were_repeated(llama: PreTrainedModel) -> None:
    """As accelerate gives layers one."""
    layers = list(llama.model.layers)
    for layer in layers:
        layer.forward = layer.forward
    own = [vars(layer)["forward"] for layer in layers]
    with quiet():
        causal_lm.trace(llama, discover_states(llama), opset=20, last_only=True)
    assert [vars(layer)["forward"] for layer in layers] == own


def test_an_error_of_the_model_itself_comes_from_tracing_it_whole(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs, marked = discover_states(llama), []

    def fail(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        marked.append(any("forward" in vars(layer) for layer in llama.model.layers))
        raise ZeroDivisionError("in every layer")

    monkeypatch.setattr(LlamaDecoderLayer, "forward", fail)
    with quiet(), pytest.raises(Exception, match="in every layer"):
        causal_lm.trace(llama, specs, opset=20, last_only=True)
    assert marked[0]
    assert not marked[-1]
