"""onnxscript's rewrite rules, with no-ops that are exactly such.

Its own take any number within 1e-8 of 0, or within 1e-5 of 1, for it: ``x + 1e-12``, which keeps a norm or a router
from dividing by 0, was gone, and a multiplier of 1.000002 as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnxscript import rewriter
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules.common import _no_op

Pattern = Callable[..., Any]


def _rule(target: Pattern, number: float) -> pattern.RewriteRule:
    def is_exact(context: object, constant: ir.Value, **others: object) -> bool:
        tensor = ir.convenience.get_const_tensor(constant)
        return tensor is not None and len(tensor.shape) == 0 and bool(tensor.numpy() == number)

    return pattern.RewriteRule(target, lambda op, x, **others: op.Identity(x), is_exact)


EXACT = (
    *_rule(lambda op, x, constant: op.Add(x, constant), 0).commute(),
    *_rule(lambda op, x, constant: op.Mul(x, constant), 1).commute(),
    _rule(lambda op, x, constant: op.Sub(x, constant), 0),
    _rule(lambda op, x, constant: op.Div(x, constant), 1),
)
INEXACT = {id(rule) for rule in _no_op.rules}
RULES = (*EXACT, *(rule for rule in rewriter._DEFAULT_REWRITE_RULES if id(rule) not in INEXACT))
