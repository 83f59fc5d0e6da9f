"""Targets ``portable`` and ``ort``: x * (1 / sqrt(v)), as PyTorch's rsqrt is traced, becomes x / sqrt(v).

ONNX Runtime then runs an RMS norm as one kernel (its SimplifiedLayerNormFusion) instead of six. Its CUDA provider has
none of bfloat16 on one side and float32 on the other, but ONNX Runtime fuses to that as well and then does not load the
graph; there, as in a Mamba whose residual is float32, the norm stays as it is.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

BFLOAT16 = ir.DataType.BFLOAT16


def _times_inverse_root(op: Any, x: Any, v: Any) -> Any:
    return op.Mul(x, op.Reciprocal(op.Sqrt(v)), _outputs=["quotient"])


def _over_root(op: Any, x: Any, v: Any, **_: Any) -> Any:
    return op.Div(x, op.Sqrt(v))


def _has_kernel(_: Any, x: ir.Value, quotient: ir.Value, **__: Any) -> bool:
    """Whether the norm is of one type, from x (or what was cast to it alone) to what the quotient is cast."""
    cast, given = x.producer(), x.dtype
    if cast is not None and cast.op_type == "Cast" and cast.inputs[0] is not None and len(x.uses()) == 2:
        given = cast.inputs[0].dtype
    casts = {node.outputs[0].dtype for node in quotient.consumers() if node.op_type == "Cast"}
    return (given == BFLOAT16) == (BFLOAT16 in casts)


_RULES = pattern.RewriteRuleSet([pattern.RewriteRule(_times_inverse_root, _over_root, _has_kernel)], commute=True)


def divide_by_roots(model: ir.Model) -> None:
    _RULES.apply_to_model(model)
