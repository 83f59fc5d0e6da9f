"""An export, whole or broken off, leaves the model and transformers as they were."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from seqexport.exporter.models import explained
from seqexport.exporter.patches import attention
from seqexport.exporter.trace import discover_states, trace
from seqexport.plugins.errors import UserError
from seqexport.runtimes.quiet import quiet
from tests.exporter.families import EXPORTED, VOCAB, build

NAMES = ["jamba", "gemma2", "phi3_longrope"]


def global_state(model: PreTrainedModel) -> dict[str, Any]:
    """What hooks touch: transformers' registries, its modules' functions, and the model's own."""
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
        with pytest.raises(UserError, match=r"cannot be exported: .* does what the exporter does not know$") as error:
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
    with pytest.raises(UserError, match="it masks attention in a way that is neither causal nor"):
        attention._mask(mask_function=sliding, local_size=4095)


@pytest.mark.parametrize("use", [lambda mask: mask.dtype, lambda mask: mask[:, None], lambda mask: mask.shape])
def test_a_mask_is_not_to_be_computed_with(use: Callable[[Any], object]) -> None:
    mask = attention.CausalMask(3)
    with pytest.raises(UserError, match="its layers compute with the attention mask"):
        use(mask)
    assert copy.deepcopy(mask) == mask
