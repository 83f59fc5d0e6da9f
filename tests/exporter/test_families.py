"""Each family, from a checkpoint to stock ONNX Runtime, against the unpatched original in float64 without a cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from seqexport.exporter.causal_lm import discover_states
from seqexport.exporter.explain import explained
from seqexport.exporter.models import refuse_unsupported
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.targets import FUSIONS, finish_for
from seqexport.plugins.errors import UserError
from seqexport.runtimes.quiet import quiet
from tests import groups
from tests.exporter.conftest import LENGTHS, Loaded, Readings, Traced
from tests.exporter.families import EXPORTED, REFUSED, REFUSED_IN_TRACING, VOCAB, build
from tests.exporter.reading import Exported, assert_reads, export, open_session, torch_feed
from tests.exporter.tensorrt_8_6 import unread
from tests.exporter.windows import cut_out
from tests.support import PROPERTY, Case, cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        every = groups.ALL or metafunc.config.getoption("--support") is not None
        metafunc.parametrize("case", cases(every=every), ids=str)


def test_family_gives_the_originals_logits_and_tokens(
    case: Case,
    loaded: Loaded,
    traced: Traced,
    readings: Readings,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    record_property(PROPERTY, case.as_property)
    library = request.getfixturevalue("native_library")("onnxruntime") if case.backend == "library" else None
    model, expected = loaded(case.family, case.dtype), readings(case.family, case.dtype)
    if case.backend == "pytorch":
        return assert_reads(partial(torch_feed, model), model, expected)
    specs, graph = traced(case.family, case.dtype)
    graph = graph.clone()
    for fuse in FUSIONS if case.backend == "fused" else ():
        fuse(graph)
    cut_out(graph)
    add_bodies(graph)
    return assert_reads(Exported(model, specs, open_session(graph, library)).feed, model, expected)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_call_gives_what_its_function_takes(name: str, traced: Traced) -> None:
    _, graph = traced(name, "float32")
    made = finish_for("portable", graph.clone())
    called = [node for node in made.graph if node.op_identifier() in made.functions]
    assert len(called) == sum(node.domain.startswith("seqexport") for node in made.graph) > 0
    for node in called:
        names = [value.name for value in made.functions[node.op_identifier()].inputs]
        assert None not in node.inputs and len(node.inputs) == len(names)
        assert node.attributes["inputs"].as_string() == ",".join(names)


@pytest.mark.parametrize("name", EXPORTED)
def test_tensorrt_8_6_reads_every_standard_op(name: str, traced: Traced) -> None:
    _, graph = traced(name, "float32")
    made = finish_for("tensorrt", graph.clone())
    assert made.graph.opset_imports[""] == 17
    assert not made.functions and not any(any(map(has_a_graph, node.attributes.values())) for node in made.graph)
    assert [told for node in made.graph if node.domain == "" and (told := unread(node))] == []


def has_a_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


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
    assert expected in line
    assert "\n" not in line
