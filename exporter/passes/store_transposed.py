"""Target ``tensorrt``: a weight that is used both as it is and transposed (tied embeddings) is stored in both forms.

TensorRT would transpose it at every build, and an engine holds both forms anyway. In 8.6.0 with fasterDynamicShapes,
the region of that product was where the build of a model with a table of [50280, 768] failed (H100).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seqexport.exporter.passes.fold_parameters import fold


def store_transposed(model: ir.Model) -> None:
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is not None and weight.is_initializer():
            fold(model.graph, node)
    RemoveUnusedNodesPass()(model)
