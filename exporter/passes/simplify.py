"""Standard clean-up of a traced graph: folded constants, no-ops and stack traces gone, common subexpressions shared.

Parameters are left alone, each under its own name: copies of a layer must find theirs (``repeat_layers.py``), and
large ones are folded lazily (``fold_parameters.py``).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter

from seqexport.exporter.passes.no_ops import RULES


def simplify(model: ir.Model) -> None:
    parameters = {value for value in model.graph.initializers.values() if "." in (value.name or "")}

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(value in parameters for value in node.inputs) else None

    optimizer.inline(model)
    for _ in range(2):
        optimizer.fold_constants(model, should_fold=should_fold)
        rewriter.rewrite(model, RULES)
    for each in (
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        each(model)
