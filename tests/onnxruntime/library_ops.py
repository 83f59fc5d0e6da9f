"""Runs one op in ONNX Runtime through the compiled library alone: the models have no function bodies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import Tensor

from seqexport.plugins.ops import DOMAIN, OPS, VERSION, Op
from tests.ops.conformance import Values, assert_as_accurate_as_torch, run_oracle, run_reference

OPSET = 20
ONNX_TYPE = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int32: TensorProto.INT32,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
}
Given = tuple[tuple[str, torch.dtype, int], ...]


def session_options(library: Path, threads: int = 2) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    return options


def run(library: Path, op: Op, values: Values, attributes: Mapping[str, Any] = {}, threads: int = 2) -> list[Tensor]:
    given = tuple((k, v.dtype, v.dim()) for k in op.input_names if (v := values.get(k)) is not None)
    session = _session(library, op.name, given, tuple(sorted(attributes.items())), threads)
    outputs = session.run(None, {k: _fed(values[k]) for k, _, _ in given})
    return [torch.from_numpy(np.ascontiguousarray(each)) for each in outputs]


def _fed(value: Tensor | None) -> Any:
    assert value is not None
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


@lru_cache(maxsize=64)
def _session(
    library: Path, name: str, given: Given, attributes: tuple[tuple[str, Any], ...], threads: int
) -> ort.InferenceSession:
    model = one_node(name, given, dict(attributes))
    return ort.InferenceSession(model, session_options(library, threads), providers=["CPUExecutionProvider"])


def one_node(name: str, given: Given, attributes: Mapping[str, Any], named: bool = False) -> bytes:
    """A model of one node, all sizes free. bfloat16 tensors go in and come out as float32, which NumPy has.

    Args:
        named: absent inputs are left out, and the attribute ``inputs`` names the others.
    """
    op = OPS[name]
    present = {k for k, _, _ in given}
    inputs = [f"{k}_in" for k in op.input_names if k in present] if named else [
        f"{k}_in" if k in present else "" for k in op.input_names]  # fmt: skip
    node = helper.make_node(name, inputs, [f"{k}_out" for k in op.outputs], domain=DOMAIN, **attributes)
    if named:
        node.attribute.append(helper.make_attribute("inputs", ",".join(k for k in op.input_names if k in present)))
    outputs = {k: _wide(given, k.replace("present", "past")) for k in op.outputs}
    nodes = [_cast(k, f"{k}_in", ONNX_TYPE[dtype]) for k, dtype, _ in given]
    nodes += [node, *(_cast(f"{k}_out", k, to) for k, (to, _) in outputs.items())]
    graph = helper.make_graph(
        nodes,
        op.stem,
        [_info(k, *_wide(given, k)) for k, _, _ in given],
        [helper.make_tensor_value_info(k, to, None) for k, (to, _) in outputs.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    serialized: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return serialized


def _cast(source: str, to: str, dtype: int) -> Any:
    return helper.make_node("Cast", [source], [to], to=dtype)


def _wide(given: Given, name: str) -> tuple[int, int]:
    """Type outside of the model, and rank, of an input, or of the first where there is none of the name."""
    dtype, rank = next(((dtype, rank) for k, dtype, rank in given if k == name), given[0][1:])
    return TensorProto.FLOAT if dtype == torch.bfloat16 else ONNX_TYPE[dtype], rank


def _info(name: str, dtype: int, rank: int) -> Any:
    return helper.make_tensor_value_info(name, dtype, [f"{name}_{axis}" for axis in range(rank)])


def check(library: Path, op: Op, values: Values, **attributes: Any) -> None:
    """The library's error is at most twice PyTorch's own; neither a second run nor one thread changes a bit."""
    dtype = next(iter(values.values())).dtype  # type: ignore[union-attr]
    oracle, torchs = run_oracle(op, values, attributes), run_reference(op, values, attributes)
    ours = run(library, op, values, attributes)
    assert_as_accurate_as_torch(ours, torchs, oracle, dtype)
    for threads in (2, 1):
        again = run(library, op, values, attributes, threads)
        assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
