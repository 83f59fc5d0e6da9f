"""An export, whole or broken off, leaves the model and transformers as they were."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from seqexport.exporter import patches
from seqexport.exporter.causal_lm import discover_states, trace
from seqexport.exporter.explain import explained
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.patches import attention
from seqexport.exporter.states import GraphStates
from seqexport.exporter.trace import Traced, trace_module
from seqexport.plugins.errors import UserError
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import EXPORTED, VOCAB, build

NAMES = ["jamba", "gemma2", "phi3_longrope"]


def global_state(model: PreTrainedModel) -> dict[str, Any]:
    """What patches touch: transformers' registries, its modules' functions, and the model's own."""
    homes = {type(module).__module__ for module in model.modules()}
    functions = {(home, n): f for home in homes for n, f in vars(sys.modules[home]).items() if callable(f)}
    plain = (bool, int, float, str, tuple, dict, type(None))
    attributes = [
        (n, k, v)
        for n, m in model.named_modules()
        for k, v in vars(m).items()
        if type(v) in plain and not k.startswith("_")
    ]
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks), "forward" in vars(m)) for m in model.modules()]
    return {
        "attention": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "implementation": model.config._attn_implementation,
        "functions": functions,
        "attributes": attributes,
        "hooks": hooks,
        "buffers": {name: id(buffer) for name, buffer in model.named_buffers()},
    }


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCAB, (2, 11), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", NAMES)
def test_export_restores(name: str, ids: torch.Tensor) -> None:
    model = build(EXPORTED[name])
    logits = model(ids).logits
    before = global_state(model)
    with quiet():
        trace(model, discover_states(model), opset=20, last_only=True)
    assert global_state(model) == before
    assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", ["discover", "trace"])
def test_failed_export_restores(name: str, stage: str, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(EXPORTED[name])
    logits = model(ids).logits
    before = global_state(model)
    specs = discover_states(model) if stage == "trace" else []

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("in the output projection\nmore")

    def failing_export() -> None:
        with quiet(), explained(model):
            if stage == "trace":
                trace(model, specs, opset=20, last_only=True)
            discover_states(model)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.get_output_embeddings()), "forward", fail)
        with pytest.raises(
            UserError, match=r"cannot be exported: .* does what the exporter does not know: ZeroDivisionError: in the"
        ) as error:
            failing_export()
    assert error.value.__cause__ is not None
    assert "\n" not in str(error.value)
    assert global_state(model) == before
    assert torch.equal(model(ids).logits, logits)


def test_refusal_inside_tracing_names_the_model() -> None:
    class Odd(nn.Module):
        pass

    with pytest.raises(UserError, match=r"^Odd cannot be exported: just this$"), explained(Odd()):
        raise RuntimeError("deep inside") from UserError("just this")


def test_a_mask_is_compared_whole_in_one_call() -> None:
    """A window of 4096 took minutes, a key at a time."""
    calls = []

    def sliding(batch: int, head: int, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        calls.append(keys.numel())
        return (keys <= query) & (keys > query - 4096)

    with FakeTensorMode(allow_non_fake_inputs=True):
        assert attention._mask(mask_function=sliding, local_size=4096).window == 4096
    assert calls == [4 * 4096 + 8]
    assert not attention._mask(mask_function=sliding, local_size=4095).known


@pytest.mark.parametrize("use", [lambda mask: mask.dtype, lambda mask: mask[:, None], lambda mask: mask.shape])
def test_a_mask_is_not_to_be_computed_with(use: Callable[[Any], object]) -> None:
    mask = attention.CausalMask(3)
    with pytest.raises(UserError, match="its layers compute with the attention mask"):
        use(mask)
    assert copy.deepcopy(mask) == mask


def decayed_sum(x: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
    """A kernel of somebody else's: h <- decay * h + x[t], with no state between calls."""
    raise NotImplementedError("runs on their GPU alone")


class Smoother(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor([-0.5, -1.5, -2.0]))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": decayed_sum(x, self.decay)}


def test_a_patch_from_outside_puts_our_op_and_its_state_in_a_module_and_goes_again() -> None:
    @patches.replaces("decayed_sum")
    def with_our_op(states: GraphStates, x: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
        past = states.past(0, "recurrent_state", ("batch", decay.shape[0], 1), x, torch.float32)
        ones = torch.ones_like(x[..., :1]).unsqueeze(2)
        y, present = torch.ops.seqexport.selective_scan(
            x, torch.ones_like(x), decay[:, None], ones, ones, None, None, None, past, None, 0
        )
        states.store(0, "recurrent_state", present)
        return y

    module, inputs, axes = Smoother(), {"x": torch.zeros(2, 4, 3)}, {"x": {0: "batch", 1: "time"}}
    original = decayed_sum
    try:
        with pytest.raises(ValueError, match="there is a patch of decayed_sum already"):
            patches.replaces("decayed_sum")(with_our_op)
        with quiet():
            traced = trace_module(module, inputs, axes)
    finally:
        patches.unregister("decayed_sum")
    assert decayed_sum is original
    (state,) = traced.states
    assert [value.name for value in traced.graph.graph.inputs] == ["x", state.past_name]
    assert [value.name for value in traced.graph.graph.outputs] == ["y", state.present_name]
    x = torch.randn(3, 6, 3)
    h, expected = torch.zeros(3, 3), []
    for t in range(6):
        h = torch.exp(module.decay.detach()) * h + x[:, t]
        expected.append(h)
    first, states = run_graph(traced, x[:, :4], np.zeros((3, 3, 1), np.float32))
    rest, states = run_graph(traced, x[:, 4:], states)
    torch.testing.assert_close(torch.from_numpy(np.concatenate([first, rest], 1)), torch.stack(expected, 1))
    with quiet(), pytest.raises(UserError, match="Smoother cannot be exported"):
        trace_module(module, inputs, axes)


def run_graph(traced: Traced, x: torch.Tensor, past: Any) -> Any:
    graph = traced.graph.clone()
    add_bodies(graph)
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy(), traced.states[0].past_name: past})


def test_a_patch_lifts_the_refusal_of_what_has_no_op() -> None:
    assert patches.missing_ops()["chunk_gated_delta_rule"] == "GatedDeltaRule"
    patches.replaces("chunk_gated_delta_rule")(lambda states, *args: args)
    try:
        assert "chunk_gated_delta_rule" not in patches.missing_ops()
    finally:
        patches.unregister("chunk_gated_delta_rule")
    assert "chunk_gated_delta_rule" in patches.missing_ops()
