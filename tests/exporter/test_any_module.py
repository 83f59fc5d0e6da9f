"""Any module as a bundle: written, verified, loaded and called, compared and timed; and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxscript import opset20
from torch import nn
from transformers import ViTConfig, ViTModel

import seqexport
from seqexport.exporter.standins.packages import PACKAGES
from seqexport.exporter.standins.scan import selective_scan_fn
from seqexport.runtimes.comparison.module_bench import ModuleSpeed, measure_module
from seqexport.runtimes.comparison.module_compare import ModuleComparison
from seqexport.runtimes.comparison.module_reference import read_module_reference
from seqexport.runtimes.ort.module import OrtModule
from tests.exporter.modules import plain


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return plain.Filter().train()


@pytest.fixture(scope="module")
def bundle(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> seqexport.Bundle:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    said: list[str] = []
    bundle = seqexport.export(
        module,
        tmp_path_factory.mktemp("any") / "filter",
        inputs=plain.INPUTS,
        dynamic=plain.DYNAMIC,
        states=plain.STATES,
        note=said.append,
    )
    assert module.training and module.norm.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert said == [
        "Filter is in training mode: it is exported as it is in evaluation mode, and stays in training mode"
    ]
    return bundle


def test_the_manifest_names_inputs_outputs_and_states(bundle: seqexport.Bundle) -> None:
    manifest = bundle.manifest
    assert [(x.name, x.shape, x.role) for x in manifest.inputs] == [
        ("x", ("batch", 3, "height", "width"), "input"),
        ("h", ("batch", 8), "past"),
    ]
    assert [(x.name, x.shape, x.role) for x in manifest.outputs] == [
        ("scores", ("batch", 5), "output"),
        ("h_after", ("batch", 8), "present"),
    ]
    assert [(s.past_name, s.present_name, s.shape) for s in manifest.states] == [("h", "h_after", ("batch", 8))]
    assert (manifest.language_model, manifest.family, manifest.capacity) == (None, None, None)
    assert (manifest.architecture, manifest.source.model) == ("Filter", "memory:Filter")


def test_other_sizes_and_a_second_call_are_recorded(bundle: seqexport.Bundle) -> None:
    cases = read_module_reference(bundle).cases
    sizes = [case.sizes(bundle.manifest) for case in cases]
    own = {"batch": 1, "height": 6, "width": 8}
    assert sizes[:4] == [own, {"batch": 1, "height": 8, "width": 11}, {"batch": 2, "height": 1, "width": 1}, own]
    assert all(case.inputs["x"].any() for case in cases)
    assert not cases[0].inputs["h"].any()
    np.testing.assert_array_equal(cases[3].inputs["h"], cases[0].answers["h_after"].astype(np.float32))


def test_it_verifies_and_a_changed_weight_does_not(bundle: seqexport.Bundle, tmp_path: Path) -> None:
    checks = seqexport.verify(bundle)
    assert [check.name for check in checks] == ["scores", "h_after"]
    assert all(check.passed for check in checks)
    with OrtModule(bundle) as runner:
        whole = runner._run
        runner._run = lambda inputs: {name: x * 1.00001 for name, x in whole(inputs).items()}  # type: ignore[method-assign]
        from seqexport.runtimes.comparison.module_verify import verify_bundle

        assert not any(check.passed for check in verify_bundle(runner))
        runner._run = lambda inputs: {name: x * np.float32("nan") for name, x in whole(inputs).items()}  # type: ignore[method-assign]
        broken = list(verify_bundle(runner))
    assert [check.passed for check in broken] == [False, False]
    assert broken[0].not_finite == "5 of 5 values (NaN)"


def test_calls_carry_their_state_by_hand(bundle: seqexport.Bundle, module: nn.Module) -> None:
    frames = np.random.default_rng(0).standard_normal((2, 3, 3, 5, 4)).astype(np.float32)  # [frame, batch, ...]
    with seqexport.load(bundle) as model:
        first = model(x=frames[0], h=np.zeros((3, 8)))
        second = model(x=frames[1], **model.carried(first))
    x, y = torch.from_numpy(frames)
    with torch.no_grad():
        module.eval()
        expected = module(y, module(x, torch.zeros(3, 8))["h_after"])
        module.train()
    np.testing.assert_allclose(second["scores"], expected["scores"].numpy(), rtol=1e-5, atol=1e-6)


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"y": 1}, "input y: there is none of this name; the inputs are x, h"),
    "missing": ({"x": np.zeros((1, 3, 4, 4))}, "input h is missing; the inputs are x, h"),
    "dtype": ({"x": np.zeros((1, 3, 4, 4), np.int64), "h": 0}, "input x is int64; expected float32"),
    "rank": ({"x": np.zeros((3, 4, 4)), "h": 0}, "input x has the shape [3, 4, 4]; expected [batch, 3, height, width]"),
    "size": (
        {"x": np.zeros((2, 3, 4, 4)), "h": np.zeros((2, 7))},
        "input h has the shape [2, 7]; expected [batch, 8]",
    ),
    "one size of a name": (
        {"x": np.zeros((2, 3, 4, 4)), "h": np.zeros((3, 8))},
        "input h has the shape [3, 8]; expected [batch, 8], and batch is 2 elsewhere",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_call_names_the_input(case: str, bundle: seqexport.Bundle) -> None:
    given, expected = CALLS[case]
    with seqexport.load(bundle) as model, pytest.raises(seqexport.Error) as refused:
        model(**given)
    assert str(refused.value) == expected


def test_it_takes_no_text(bundle: seqexport.Bundle) -> None:
    with seqexport.load(bundle) as model, pytest.raises(seqexport.Error, match="is not a language model's: call it"):
        model.generate("text")
    with seqexport.load(bundle) as model, pytest.raises(seqexport.Error, match="is not a language model's: call it"):
        model.session()


def test_compare_and_the_original(bundle: seqexport.Bundle, module: nn.Module) -> None:
    comparison = seqexport.compare([bundle], ["torch", "ort"], quick=True, original=module)
    assert isinstance(comparison, ModuleComparison)
    (found,) = comparison.bundles
    assert [(result.backend, result.error, result.passed) for result in found.results] == [
        ("torch", None, True),
        ("ort", None, True),
    ]
    assert comparison.passed and all(point.seconds for result in found.results for point in result.points)
    without = seqexport.compare([bundle], ["torch"], quick=True)
    assert "say how its original is made" in str(without.bundles[0].results[0].error)
    assert not without.passed


def test_every_combination_of_sizes_is_timed(bundle: seqexport.Bundle) -> None:
    with OrtModule(bundle) as runner:
        points = measure_module(runner, ModuleSpeed({"batch": (1, 2), "width": (4, 5)}, 2, 1.0))
        assert [point.sizes for point in points] == [
            f"batch {batch}, height 6, width {width}" for batch in (1, 2) for width in (4, 5)
        ]
        assert all(point.seconds and point.repeats >= 1 for point in points)
        with pytest.raises(seqexport.Error, match="`axis` depth: the dynamic axes are batch, height, width"):
            measure_module(runner, ModuleSpeed({"depth": (1,)}))


@pytest.mark.parametrize("target", ["ort", "tensorrt"])
def test_other_targets_and_dtypes(target: Any, tmp_path: Path) -> None:
    module = plain.Filter()
    bundle = seqexport.export(
        module, tmp_path / "out", inputs=plain.INPUTS, dynamic=plain.DYNAMIC, target=target, dtype="fp16"
    )
    assert {x.dtype for x in (*bundle.manifest.inputs, *bundle.manifest.outputs)} == {"float16"}
    assert next(module.parameters()).dtype == torch.float32
    if target == "ort":
        assert all(check.passed for check in seqexport.verify(bundle))


def test_token_ids_and_tied_weights(tmp_path: Path) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    bundle = seqexport.export(plain.Tied(), tmp_path / "out", inputs={"ids": ids}, dynamic={"ids": {1: "length"}})
    assert all(check.passed for check in seqexport.verify(bundle))
    cases = read_module_reference(bundle).cases
    assert {int(i) for case in cases for i in case.inputs["ids"].ravel()} <= {1, 3, 4, 5}


@torch.library.custom_op("seqexport_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    """An op of somebody else's."""
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return twice(x) + 1


def test_an_op_of_ones_own_passes_through_or_is_named(tmp_path: Path) -> None:
    inputs = {"x": torch.ones(2, 4)}
    with pytest.raises(seqexport.Error, match=r"no ONNX form of seqexport_tests\.twice is known; give one with"):
        seqexport.export(Own(), tmp_path / "out", inputs=inputs)
    table = {torch.ops.seqexport_tests.twice.default: lambda x: opset20.Add(x, x)}
    bundle = seqexport.export(Own(), tmp_path / "out", inputs=inputs, translations=table)
    assert all(check.passed for check in seqexport.verify(bundle))


def test_a_vision_transformer_of_transformers_keeps_its_attention(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4
    )
    model = ViTModel(config)
    asked: dict[str, Any] = {"inputs": {"pixel_values": torch.zeros(1, 3, 8, 8)}, "dynamic": {"pixel_values": {0: "n"}}}
    bundle = seqexport.export(model, tmp_path / "out", **asked)
    checks = seqexport.verify(bundle)
    assert [check.name for check in checks] == ["last_hidden_state", "pooler_output"]
    assert all(check.passed for check in checks)
    assert bundle.manifest.ops == {}


class Complex(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        A = torch.complex(-torch.ones(4, 3), torch.ones(4, 3))
        return selective_scan_fn(x[..., None], x[..., None], A, torch.ones(4, 3), torch.ones(4, 3))


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


X = torch.arange(8.0).reshape(2, 4)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no module": ("text.with:nothing", {}, "`module` text.with:nothing: there is no text in "),
    "a branch on values": (
        plain.Branches(),
        {},
        "Branches cannot be exported: forward() at line 46 of its plain.py does what the exporter does not know: what "
        "it does depends on the values of a tensor; use torch.where",
    ),
    "a fixed axis": (
        plain.Fixed(),
        {"dynamic": {"x": {1: "width"}}},
        "Fixed cannot be exported: axis 1 (width) of x has one size only, 4: leave it out of the axes",
    ),
    "not finite": (Infinite := plain.Infinite(), {}, "its output output is not finite even in float64: 8 of 8"),
    "complex rates": (
        Complex(),
        {},
        "Complex cannot be exported: selective_scan_fn: A is complex64; our scans have real",
    ),
    "double": (
        Doubles(),
        {"inputs": {"x": X}, "dtype": "fp64"},
        "`dtype` 'fp64': expected one of float32, float16, bfloat16",
    ),
    "complex": (Doubles(), {"inputs": {"x": X + 1j}}, "input x is complex"),
    "no tensor": (Doubles(), {"inputs": {"x": 3}}, "input x: expected a tensor or an array, got int"),
    "no inputs": (Doubles(), {"inputs": {}}, "Doubles: give an example of each of its inputs with `inputs`"),
    "other name": (Doubles(), {"inputs": {"y": X}}, "inputs y: Doubles.forward: missing a required argument: 'x'"),
    "axes of nothing": (Doubles(), {"dynamic": {"y": {0: "n"}}}, "dynamic axes of y: the inputs are x"),
    "too few axes": (Doubles(), {"dynamic": {"x": ("n",)}}, "axes of x: 1 are named, and its example is [2, 4]"),
    "another size": (Doubles(), {"dynamic": {"x": ("n", 5)}}, "axes of x: axis 1 is 5, and 4 in its example"),
    "an axis too many": (Doubles(), {"dynamic": {"x": {2: "n"}}}, "axis 2 (n) of x: its example has 2 axes"),
    "a state": (Doubles(), {"states": {"h": "y"}}, "state h: no such input, or nothing reads it; read are x"),
    "of language models": (Doubles(), {"max_len": 3}, "`max_len` is of a language model, exported without `inputs`"),
    "weights of nothing": (Doubles(), {"weights": "w.safetensors"}, "`weights` are of a module that a factory makes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_one_line_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    model, given, expected = REFUSED[case]
    with pytest.raises(seqexport.Error) as refused:
        seqexport.export(model, tmp_path / "out", **{"inputs": {"x": X}, **given})
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    assert not {name for name in PACKAGES if name in sys.modules}


def test_options_of_any_module_need_inputs(tmp_path: Path) -> None:
    with pytest.raises(seqexport.Error, match="`dynamic` is of any module, exported with `inputs`"):
        seqexport.export("preset:mamba", tmp_path / "out", dynamic={})
