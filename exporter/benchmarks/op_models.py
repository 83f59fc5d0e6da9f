"""Models of one op for the benchmarks, and its inputs at the sizes of a model of 130 M parameters, batch 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnx import TensorProto, helper
from torch import Tensor

from seqexport.plugins.ops import DOMAIN, OPS, VERSION

OPSET, PROMPT, THREADS = 20, 1024, 2
D, N, K, HEADS, HEAD_DIM = 1536, 16, 4, 12, 64
PARAMETERS = ("A", "D", "dt_bias", "weight", "bias")
TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.int32: TensorProto.INT32}
Values = dict[str, Tensor]


def truth_of(name: str, values: Values, attributes: Mapping[str, Any]) -> Any:
    """y of the op's reference in float64, as an array."""
    wide = {k: v.double() if v.is_floating_point() else v for k, v in values.items()}
    return OPS[name].reference(**{k: wide.get(k) for k in OPS[name].input_names}, **attributes)[0].numpy()


def model_of(
    name: str,
    values: Values,
    attributes: Mapping[str, Any],
    finish: Callable[[ir.Model], None],
    repeats: int = 1,
) -> bytes:
    """One node, or a chain of ``repeats`` where each is given the y of the one before it.

    Parameters are initializers, batch and length free, as in an exported model. All nodes read the same states; the
    last one's outputs have the op's names, those of node i before it end in ``.i``, and every present is an output.
    """
    op = OPS[name]
    first, y = op.input_names[0], next(iter(op.outputs))
    numbered = [[k if i == repeats - 1 else f"{k}.{i}" for k in op.outputs] for i in range(repeats)]
    nodes = []
    for i, outputs in enumerate(numbered):
        inputs = [k if k in values else "" for k in op.input_names]
        inputs[0] = numbered[i - 1][0] if i else first
        nodes.append(helper.make_node(name, inputs, outputs, domain=DOMAIN, **attributes))
    like = {k: values[k.replace("present", "past")] for k in op.outputs if k != y} | {y: values[first]}
    infos = [_info(k, like[k.partition(".")[0]]) for names in numbered for k in names]
    weights = [
        helper.make_tensor(k, TYPES[v.dtype], v.shape, v.numpy().tobytes(), raw=True)
        for k, v in values.items()
        if k in PARAMETERS
    ]
    graph = helper.make_graph(
        nodes,
        op.stem,
        [_info(k, v) for k, v in values.items() if k not in PARAMETERS],
        [info for info in infos if not info.name.startswith(f"{y}.")],
        weights,
        value_info=[info for info in infos if info.name.startswith(f"{y}.")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    finish(model)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _info(name: str, value: Tensor) -> Any:
    sizes: list[int | str] = list(value.shape)
    sizes[0] = "batch"
    if value.dim() > 2 and not name.startswith(("past", "present")):
        sizes[1] = "seq"
    return helper.make_tensor_value_info(name, TYPES[value.dtype], sizes)


def _scan_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    like = {k: torch.randn(1, length, D, generator=g).to(dtype) for k in ("x", "dt", "z")}
    rows = {k: torch.randn(1, length, 1, N, generator=g).to(dtype) for k in ("B", "C")}
    values = {
        "x": like["x"],
        "dt": like["dt"],
        "A": -torch.arange(1.0, N + 1).expand(D, N).contiguous(),
        "B": rows["B"],
        "C": rows["C"],
        "D": torch.ones(D),
        "z": like["z"],
        "dt_bias": torch.randn(D, generator=g) - 4,
        "past": torch.randn(1, D, N, generator=g),
        "seq_lens": torch.tensor([length], dtype=torch.int32),
    }
    return values, {"dt_softplus": 1}


def _conv_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (1, length, D), "weight": (D, K), "bias": (D,), "past": (1, D, K - 1)}
    values = {name: torch.randn(*shape, generator=g).to(dtype) for name, shape in shapes.items()}
    return values | {"seq_lens": torch.tensor([length], dtype=torch.int32)}, {"activation": "silu"}


def _attention_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    """A prompt into an empty cache, or one token after a prompt."""
    g = torch.Generator().manual_seed(0)
    past = PROMPT if length == 1 else 0
    new = {k: torch.randn(1, length, HEADS, HEAD_DIM, generator=g).to(dtype) for k in ("query", "key", "value")}
    old = {k: torch.randn(1, HEADS, past + length, HEAD_DIM, generator=g).to(dtype) for k in ("past_key", "past_value")}
    lens = {"past_lens": torch.tensor([past], dtype=torch.int32), "seq_lens": torch.tensor([length], dtype=torch.int32)}
    return new | old | lens, {"scale": HEAD_DIM**-0.5, "window": 0, "softcap": 0.0}


INPUTS = {"CausalAttention": _attention_inputs, "CausalConv1d": _conv_inputs, "SelectiveScan": _scan_inputs}
"""The ops that graphs of every target have."""
