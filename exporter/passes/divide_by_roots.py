"""Targets ``portable`` and ``ort``: x * (1 / sqrt(v)), as PyTorch's rsqrt is traced, becomes x / sqrt(v).

ONNX Runtime then runs an RMS norm as one kernel (its SimplifiedLayerNormFusion) instead of six.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern


def _times_inverse_root(op: Any, x: Any, v: Any) -> Any:
    return op.Mul(x, op.Reciprocal(op.Sqrt(v)))


def _over_root(op: Any, x: Any, v: Any) -> Any:
    return op.Div(x, op.Sqrt(v))


_RULES = pattern.RewriteRuleSet([pattern.RewriteRule(_times_inverse_root, _over_root)], commute=True)


def divide_by_roots(model: ir.Model) -> None:
    _RULES.apply_to_model(model)
