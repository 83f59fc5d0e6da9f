"""Runs one op in every backend and holds it to the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import Tensor

from seqexport.plugins import library
from seqexport.plugins.ops import DOMAIN, VERSION, Call, Op

Values = dict[str, Tensor | None]
OPSET = 20
ONNX_TYPE = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.int32: TensorProto.INT32,
}
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def run_reference(op: Op, values: Values, attributes: Mapping[str, object] = {}) -> Sequence[Tensor]:
    return op.reference(**values, **attributes)


def run_float64(op: Op, values: Values, attributes: Mapping[str, object] = {}) -> Sequence[Tensor]:
    """The reference in float64, on the very inputs that the other backends get."""
    wide = {k: v.double() if v is not None and v.is_floating_point() else v for k, v in values.items()}
    return op.reference(**wide, **attributes)


def run_onnxruntime(op: Op, values: Values, attributes: Mapping[str, object] = {}) -> Sequence[Tensor]:
    """The op's function body, in stock ONNX Runtime on the CPU."""
    given = tuple(
        (name, ONNX_TYPE[values[name].dtype], values[name].dim()) for name in op.input_names if values[name] is not None
    )
    session = _session(op.name, given, tuple(sorted(attributes.items())))
    outputs = session.run(None, {name: values[name].numpy() for name, _, _ in given})
    return [torch.from_numpy(np.ascontiguousarray(o)) for o in outputs]


def run_cuda(op: Op, values: Values, attributes: Mapping[str, object] = {}) -> Sequence[Tensor]:
    """``torch.ops.seqexport.<stem>`` on the GPU: our kernels."""
    on_gpu = {k: None if v is None else v.cuda() for k, v in values.items()}
    return [output.cpu() for output in getattr(torch.ops.seqexport, op.stem)(**on_gpu, **attributes)]


Backend = Callable[..., Sequence[Tensor]]
BACKENDS: list[Backend] = [run_onnxruntime]
"""What is held to the float64 reference, beside PyTorch in the dtype itself."""

NO_CUDA = "no CUDA device" if not torch.cuda.is_available() else ""
if not NO_CUDA and library.find("kernels") is None:
    NO_CUDA = f"no {library.FILES['kernels']} ({library.BUILD})"
if not NO_CUDA:
    BACKENDS.append(run_cuda)


@lru_cache(maxsize=256)
def _session(
    op_name: str, given: tuple[tuple[str, int, int], ...], attributes: tuple[tuple[str, object], ...]
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = single_node_model(op_name, given, dict(attributes))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def single_node_model(
    op_name: str, given: Sequence[tuple[str, int, int]], attributes: Mapping[str, object]
) -> onnx.ModelProto:
    """A model of one node whose sizes are all symbolic, with the op's body as a model-local function."""
    from seqexport.plugins.ops import OPS

    op = OPS[op_name]
    names = {name for name, _, _ in given}
    attributes = {**op.attributes, **attributes}
    inputs = [name for name in op.input_names if name in names]
    names_out, call = op.output_names(names), Call(frozenset(names), attributes)
    node = helper.make_node(op.name, inputs, names_out, domain=DOMAIN, **attributes)
    infos = [_info(name, dtype, rank) for name, dtype, rank in given]
    fixed = {"I": TensorProto.INT32, "F": TensorProto.FLOAT} | (
        {"S": TensorProto.FLOAT} if attributes.get("wide") else {}
    )
    outputs = [_info(name, *_alike(name, given, fixed.get(op.outputs[name]))) for name in names_out]
    model = helper.make_model(
        helper.make_graph([node], op.stem, infos, outputs),
        functions=[op.function(call, op.body(call), {"": OPSET})],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def _alike(output: str, given: Sequence[tuple[str, int, int]], fixed: int | None) -> tuple[int, int]:
    """dtype and rank of an output: y is like the first input, a present like its past, but where its dtype is fixed."""
    source = output.replace("present", "past")
    dtype, rank = next(((dtype, rank) for name, dtype, rank in given if name == source), given[0][1:])
    return dtype if fixed is None else fixed, rank


def _info(name: str, dtype: int, rank: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [f"{name}_{axis}" for axis in range(rank)])


def relative_error(actual: Tensor, true: Tensor) -> float:
    """||actual - true|| / ||true||; NaN anywhere is an infinite error."""
    actual, true = actual.double(), true.double()
    if actual.shape != true.shape or not torch.isfinite(actual).all():
        return float("inf")
    norm = torch.linalg.vector_norm(true)
    return float(torch.linalg.vector_norm(actual - true) / norm) if norm > 0 else float(actual.abs().max())


def assert_as_accurate_as_torch(
    ours: Sequence[Tensor], torchs: Sequence[Tensor], true: Sequence[Tensor], dtype: torch.dtype
) -> None:
    """Our error is at most twice PyTorch's own in this dtype, PyTorch's taken as at least one rounding."""
    for index, (a, b, c) in enumerate(zip(ours, torchs, true, strict=True)):
        if c.numel() == 0:
            assert a.shape == c.shape
            continue
        error, allowed = relative_error(a, c), 2 * max(relative_error(b, c), UNIT_ROUNDOFF[dtype])
        assert error <= allowed, f"output {index}: error {error:.2e}, allowed {allowed:.2e}"


def check_op(op: Op, values: Values, dtype: torch.dtype = torch.float32, **attributes: object) -> None:
    """Hold every backend to the float64 reference, beside the PyTorch reference in ``dtype``."""
    true, torchs = run_float64(op, values, attributes), run_reference(op, values, attributes)
    for run in BACKENDS:
        assert_as_accurate_as_torch(run(op, values, attributes), torchs, true, dtype)
