"""Runs one op in ONNX Runtime through the compiled library alone: the models have no function bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import Tensor

from seqexport.plugins.ops import DOMAIN, OPS, VERSION, Op
from tests.ops.conformance import Values, assert_as_accurate_as_torch, run_float64, run_reference

OPSET = 20
ONNX_TYPE = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int32: TensorProto.INT32,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Given = tuple[tuple[str, torch.dtype, int], ...]


def session_options(library: Path, threads: int = 2) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    return options


@dataclass(frozen=True)
class LibraryOps:
    """The library's ops on ``cpu`` or ``cuda``, where a session that left a node to the CPU is not created."""

    library: Path
    device: str = "cpu"

    def run(self, op: Op, values: Values, attributes: Mapping[str, Any] = {}, threads: int = 2) -> list[Tensor]:
        session = self._session(op, values, attributes, threads)
        outputs = session.run(None, {k: _fed(values[k]) for k, _, _ in _given(op, values)})
        return [torch.from_numpy(np.ascontiguousarray(each)) for each in outputs]

    def run_in_place(self, op: Op, values: Values, attributes: Mapping[str, Any] = {}) -> list[Tensor]:
        """With every present bound to the memory of its past; float32 and float16 alone."""
        session = self._session(op, values, attributes, 2)
        binding = session.io_binding()
        arrays = {k: _fed(values[k]).copy() for k, _, _ in _given(op, values)}
        held = {k: ort.OrtValue.ortvalue_from_numpy(array, self.device, 0) for k, array in arrays.items()}
        for name, value in held.items():
            binding.bind_ortvalue_input(name, value)
        pasts = [held.get(name.replace("present", "past")) for name in op.outputs]
        for name, past in zip(op.outputs, pasts, strict=True):
            if past is None:
                binding.bind_output(name, self.device)
            else:
                binding.bind_ortvalue_output(name, past)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        for output, past in zip(outputs, pasts, strict=True):
            assert past is None or output.data_ptr() == past.data_ptr()
        return [torch.from_numpy(output.numpy().copy()) for output in outputs]

    def check(self, op: Op, values: Values, **attributes: Any) -> None:
        """The error is at most twice PyTorch's own; neither a second run nor, on the CPU, one thread changes a bit."""
        dtype = next(iter(values.values())).dtype  # type: ignore[union-attr]
        ours = self.run(op, values, attributes)
        torchs, true = run_reference(op, values, attributes), run_float64(op, values, attributes)
        assert_as_accurate_as_torch(ours, torchs, true, dtype)
        for threads in (2, 1) if self.device == "cpu" else (2,):
            again = self.run(op, values, attributes, threads)
            assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))

    def _session(self, op: Op, values: Values, attributes: Mapping[str, Any], threads: int) -> ort.InferenceSession:
        return _session(self, op.name, _given(op, values), tuple(sorted(attributes.items())), threads)


def _given(op: Op, values: Values) -> Given:
    return tuple((k, v.dtype, v.dim()) for k in op.input_names if (v := values.get(k)) is not None)


def _fed(value: Tensor | None) -> Any:
    assert value is not None
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


@lru_cache(maxsize=8)
def _session(
    ops: LibraryOps, name: str, given: Given, attributes: tuple[tuple[str, Any], ...], threads: int
) -> ort.InferenceSession:
    model = one_node(name, given, dict(attributes))
    options = session_options(ops.library, threads)
    if ops.device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model, options, providers=[PROVIDERS[ops.device]], enable_fallback=0)
    assert session.get_providers()[0] == PROVIDERS[ops.device]
    return session


def one_node(name: str, given: Given, attributes: Mapping[str, Any], named: bool = False) -> bytes:
    """A model of one node, all sizes free. bfloat16 tensors go in and come out as float32, which NumPy has.

    Args:
        named: absent inputs are left out, and the attribute ``inputs`` names the others.
    """
    op = OPS[name]
    narrow = {k for k, dtype, _ in given if dtype == torch.bfloat16}
    present = {k: f"{k}_in" if k in narrow else k for k, _, _ in given}
    fixed = {"I": torch.int32, "F": torch.float32}
    if {**op.attributes, **attributes}.get("wide"):
        fixed["S"] = torch.float32
    types = {k: fixed.get(op.outputs[k]) or _type(given, k.replace("present", "past"))
             for k in op.output_names(present)}  # fmt: skip
    results = {k: f"{k}_out" if dtype == torch.bfloat16 else k for k, dtype in types.items()}
    inputs = list(present.values()) if named else [present.get(k, "") for k in op.input_names]
    node = helper.make_node(name, inputs, list(results.values()), domain=DOMAIN, **attributes)
    if named:
        node.attribute.append(helper.make_attribute("inputs", ",".join(present)))
    nodes = [helper.make_node("Cast", [k], [present[k]], to=TensorProto.BFLOAT16) for k in present if k in narrow]
    nodes += [node]
    nodes += [helper.make_node("Cast", [to], [k], to=TensorProto.FLOAT) for k, to in results.items() if k != to]
    graph = helper.make_graph(
        nodes,
        op.stem,
        [helper.make_tensor_value_info(k, _wide(dtype), [f"{k}_{axis}" for axis in range(rank)])
         for k, dtype, rank in given],
        [helper.make_tensor_value_info(k, _wide(dtype), None) for k, dtype in types.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    serialized: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return serialized


def _type(given: Given, name: str) -> torch.dtype:
    """That of an input, or of the first where there is none of the name."""
    return next((dtype for k, dtype, _ in given if k == name), given[0][1])


def _wide(dtype: torch.dtype) -> int:
    return TensorProto.FLOAT if dtype == torch.bfloat16 else ONNX_TYPE[dtype]
