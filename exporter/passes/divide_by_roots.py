"""Targets ``portable`` and ``ort``: x * (1 / sqrt(v)), as PyTorch's rsqrt is traced, becomes x / sqrt(v).

ONNX Runtime then runs an RMS norm as one kernel (its SimplifiedLayerNormFusion) instead of six. Where that would take
float32 and give bfloat16, as in a Mamba with its residual in float32, the norm stays as it is: ONNX Runtime fuses there
too, and then finds that its CUDA provider has no such kernel.
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
    narrowed = any(node.op_type == "Cast" and node.outputs[0].dtype == BFLOAT16 for node in quotient.consumers())
    cast = x.producer()
    given = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return not narrowed or (given is not None and given.dtype == BFLOAT16)


_RULES = pattern.RewriteRuleSet([pattern.RewriteRule(_times_inverse_root, _over_root, _has_kernel)], commute=True)


def divide_by_roots(model: ir.Model) -> None:
    _RULES.apply_to_model(model)
