"""Opset 27: our ops by ONNX's own, in ONNX Runtime and in the standard's evaluator, against float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from seqexport.exporter import notes
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.opset_27 import OPSET
from seqexport.exporter.trace import TRACED_OPSETS
from seqexport.plugins.ops import OPS
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from tests import groups
from tests.conftest import Exported
from tests.exporter.conftest import Loaded, Readings, Traced
from tests.exporter.one_op import in_onnxruntime, in_reference_evaluator, model_of
from tests.exporter.reading import Exported as InOnnxRuntime
from tests.exporter.reading import assert_reads, open_session
from tests.ops import test_causal_conv1d, test_ssd_scan
from tests.ops.conformance import Values, assert_as_accurate_as_torch, run_float64, run_reference

STANDARD = {"CausalConv1d": "CausalConvWithState", "SsdScan": "LinearAttention"}
RUNS = [in_onnxruntime, in_reference_evaluator]
conv, ssd = test_causal_conv1d.make, test_ssd_scan.make
SILU, SOFTPLUS = {"activation": "silu"}, {"dt_softplus": 1}
LIMITS = SOFTPLUS | {"dt_min": 0.05, "dt_max": 0.25}


def in_opset_27(name: str, values: Values, attributes: Any) -> ir.Model:
    model = model_of(name, values, attributes, OPSET)
    add_bodies(model)
    return model


def standard_ops(functions: Any) -> set[str]:
    return {node.op_type for function in functions for node in function} & {*STANDARD.values()}


@pytest.mark.parametrize(
    ("name", "values", "attributes"),
    [
        ("CausalConv1d", conv(length=1, D=33), SILU),
        ("CausalConv1d", conv(length=70, D=33, K=3, batch=3, seq_lens=[70, 1, 33]), SILU),
        ("CausalConv1d", conv(length=5, D=8, K=2, batch=3, seq_lens=[5, 0, 3], without=("bias",)), {}),
        ("CausalConv1d", conv(length=2, K=8, without=("seq_lens",)), SILU),
        ("CausalConv1d", conv(length=70, D=33, dtype=torch.float16, seq_lens=[70, 33]), SILU),
        ("SsdScan", ssd(length=1, H=3, P=24, N=16, G=3), SOFTPLUS),
        ("SsdScan", ssd(length=70, H=4, P=7, N=16, G=2, batch=3, seq_lens=[70, 1, 33]), LIMITS),
        ("SsdScan", ssd(length=70, H=2, P=80, N=128), SOFTPLUS),
        ("SsdScan", ssd(without=("D", "z", "dt_bias", "seq_lens"), dt_softplus=0), {}),
        ("SsdScan", ssd(length=70, H=2, P=64, N=100, dtype=torch.float16, seq_lens=[70, 33]), SOFTPLUS),
    ],
)
@pytest.mark.parametrize("run", RUNS)
def test_an_op_is_as_accurate_as_pytorch(
    run: Callable[..., list[Tensor]], name: str, values: Values, attributes: Any
) -> None:
    op, model, x = OPS[name], in_opset_27(name, values, attributes), values["x"]
    assert standard_ops(model.functions.values()) == {STANDARD[name]}
    true, torchs = run_float64(op, values, attributes), run_reference(op, values, attributes)
    assert x is not None
    assert_as_accurate_as_torch(run(model, values), torchs, true, x.dtype)


@pytest.mark.filterwarnings("ignore:invalid value")  # as NumPy says of NaN
@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("run", RUNS)
def test_padded_tokens_change_nothing(run: Callable[..., list[Tensor]], name: str) -> None:
    lens, (make, attributes) = [7, 3, 0], (conv, SILU) if name == "CausalConv1d" else (ssd, SOFTPLUS)
    clean: dict[str, Any] = make(batch=3, length=7, seq_lens=lens)
    model, poisoned = in_opset_27(name, clean, attributes), {key: value.clone() for key, value in clean.items()}
    for row, valid in enumerate(lens):
        for key in ("x", "dt", "B", "C", "z") & poisoned.keys():
            poisoned[key][row, valid:] = torch.nan
    (y, present), (y_clean, present_clean) = run(model, poisoned), run(model, clean)
    assert torch.equal(y, y_clean)
    assert torch.equal(present, present_clean)
    assert all((y[row, valid:] == 0).all() for row, valid in enumerate(lens))
    assert torch.equal(present[2], clean["past"][2])


@pytest.mark.parametrize("name", STANDARD)
def test_one_column_of_state_and_none(name: str) -> None:
    """A convolution of one token has no state at all."""
    values = conv(K=1) if name == "CausalConv1d" else ssd(N=1, P=1)
    op, model = OPS[name], in_opset_27(name, values, {})
    true, torchs = run_float64(op, values), run_reference(op, values)
    assert_as_accurate_as_torch(in_onnxruntime(model, values), torchs, true, torch.float32)


def test_more_states_than_are_summed_closely_keep_the_body_and_are_told() -> None:
    values = ssd(N=129)
    assert list(notes.after_tracing(model_of("SsdScan", values, SOFTPLUS))) == []
    (said,) = notes.after_tracing(model_of("SsdScan", values, SOFTPLUS, OPSET))
    assert said.endswith("SsdScan of up to 128 states; our own bodies stay in SsdScan")
    assert list(notes.after_tracing(model_of("SsdScan", ssd(N=128), SOFTPLUS, OPSET))) == []
    assert standard_ops(in_opset_27("SsdScan", values, SOFTPLUS).functions.values()) == set()


def test_opsets_up_to_27_only_add_to_what_is_traced() -> None:
    """So that a graph takes another number, and nothing else."""
    for new in onnx.defs.get_all_schemas_with_history():
        if new.domain or not TRACED_OPSETS[-1] < new.since_version <= OPSET or not onnx.defs.has(new.name):
            continue
        try:
            old = onnx.defs.get_schema(new.name, TRACED_OPSETS[-1])
        except onnx.defs.SchemaError:
            continue
        for kind in ("inputs", "outputs"):
            before, after = getattr(old, kind), getattr(new, kind)
            assert [(x.name, x.option) for x in after[: len(before)]] == [(x.name, x.option) for x in before]
            assert all(x.option == onnx.defs.OpSchema.FormalParameterOption.Optional for x in after[len(before) :])
        for name, attribute in new.attributes.items():
            assert not attribute.required or name in old.attributes
        for name, attribute in old.attributes.items():
            assert new.attributes[name].default_value == attribute.default_value


FAMILIES = ["mamba", "mamba2", "falcon_h1", "nemotron_h", "zamba2", "granite_hybrid", "jamba", "lfm2"]
EVERY = [*((name, "float32") for name in FAMILIES), *((name, "float16") for name in ("mamba2", "jamba", "lfm2"))]
CASES = (
    EVERY
    if groups.ALL
    else [("mamba", "float32"), ("falcon_h1", "float32"), ("mamba2", "float16"), ("lfm2", "float16")]
)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_family_reads_as_the_original_does(
    name: str, dtype: str, loaded: Loaded, traced: Traced, readings: Readings
) -> None:
    specs, graph = traced(name, dtype, OPSET)
    graph = graph.clone()
    add_bodies(graph)
    onnx.checker.check_model(ir.to_proto(graph))
    ours = {node.op_type for node in graph.graph} & STANDARD.keys()
    assert standard_ops(graph.functions.values()) == {STANDARD[op] for op in ours} != set()
    model = loaded(name, dtype)
    assert_reads(InOnnxRuntime(model, specs, open_session(graph)).feed, model, readings(name, dtype))


def test_our_library_computes_these_nodes_too(
    native_library: Callable[[str], Path], loaded: Loaded, traced: Traced, readings: Readings
) -> None:
    specs, graph = traced("mamba2", "float32", OPSET)
    graph, model = graph.clone(), loaded("mamba2", "float32")
    add_bodies(graph)
    graph.functions.clear()  # so that nothing else can
    session = open_session(graph, native_library("onnxruntime"))
    assert_reads(InOnnxRuntime(model, specs, session).feed, model, readings("mamba2", "float32"))


@pytest.mark.parametrize(("name", "dtype"), [("mamba2", "float32"), ("jamba", "float16")])
def test_a_bundle_says_its_opset_and_verifies(exported: Exported, name: str, dtype: str) -> None:
    bundle = exported(name, opset=OPSET, dtype=dtype, logits="all")
    model = onnx.load(bundle.model, load_external_data=False)
    assert {x.domain: x.version for x in model.opset_import}[""] == OPSET == bundle.manifest.opset
    onnx.checker.check_model(str(bundle.model), full_check=True)
    with open_runner("ort", bundle) as runner:
        assert [check for check in verify(runner, read_reference(bundle)) if not check.passed] == []
