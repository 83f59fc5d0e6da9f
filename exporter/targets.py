"""What is done to a traced graph for each target, and then by passes of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from seqexport.exporter.interface import axes_of
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.add_in_levels import add_in_levels
from seqexport.exporter.passes.divide_by_roots import divide_by_roots
from seqexport.exporter.passes.fuse_embedding import fuse_embedding
from seqexport.exporter.passes.fuse_linear import fuse_linear
from seqexport.exporter.passes.fuse_rms_norm import fuse_rms_norm
from seqexport.exporter.passes.fuse_rotary_embedding import fuse_rotary_embedding
from seqexport.exporter.passes.fuse_router import fuse_router
from seqexport.exporter.passes.fuse_scan_gate import fuse_scan_gate
from seqexport.exporter.passes.gelu_by_sigmoid import gelu_by_sigmoid
from seqexport.exporter.passes.graph_pass import GraphPass
from seqexport.exporter.passes.join_directions import join_directions
from seqexport.exporter.passes.name_inputs import name_inputs
from seqexport.exporter.passes.opset_17 import to_opset_17
from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.exporter.passes.read_in_place import read_in_place
from seqexport.exporter.passes.reduce_angles import reduce_angles
from seqexport.exporter.passes.sort_top_k import sort_top_k
from seqexport.exporter.passes.spell_out_shape import spell_out_shape
from seqexport.exporter.passes.unflatten_products import unflatten_products
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Target

FUSIONS = (
    fuse_embedding,
    fuse_rms_norm,
    fuse_scan_gate,
    read_in_place,
    fuse_router,
    unflatten_products,
    join_directions,
    fuse_linear,
    fuse_rotary_embedding,
)

EXACT_AND_FAST = (divide_by_roots, add_in_levels)
"""Standard ops as ONNX Runtime does them best."""

PASSES: dict[Target, ir.passes.Sequential] = {
    "portable": ir.passes.Sequential(*map(GraphPass, (*EXACT_AND_FAST, add_bodies))),
    "ort": ir.passes.Sequential(*map(GraphPass, (*EXACT_AND_FAST, lower_for_ort, add_bodies))),
    "tensorrt": ir.passes.Sequential(
        *map(GraphPass, FUSIONS),
        GraphPass(name_inputs),
        GraphPass(spell_out_shape),
        GraphPass(sort_top_k),
        GraphPass(reduce_angles),
        GraphPass(to_opset_17),
        GraphPass(gelu_by_sigmoid),
    ),
}


def finish_for(target: Target, graph: ir.Model, own: Sequence[ir.passes.PassBase] = ()) -> ir.Model:
    """The graph for a target. ``own`` passes run last, one after another, on what would be written without them.

    Raises:
        UserError: naming an own pass that fails, or that leaves a graph that is not valid or has other inputs or
            outputs.
    """
    graph = PASSES[target](graph).model
    for each in own:
        graph = _checked(each, graph)
    return graph


def _checked(each: ir.passes.PassBase, graph: ir.Model) -> ir.Model:
    if not isinstance(each, ir.passes.PassBase):
        raise UserError(f"pass {each!r}: expected a pass of onnx_ir, got {type(each).__name__}")
    name, before = type(each).__name__, _interface(graph)
    try:
        changed = each(graph).model
    except Exception as error:
        raise UserError(f"pass {name} failed: {_line(error)}") from error
    try:
        CheckerPass()(changed)
        after = _interface(changed)
    except Exception as error:
        raise UserError(f"pass {name} leaves a graph that is not valid: {_line(error)}") from error
    if after != before:
        names = sorted({str(value[0]) for value in (*before, *after) if value not in before or value not in after})
        raise UserError(f"pass {name} changes inputs or outputs ({', '.join(names)}); runtimes need them as they were")
    return changed


def _interface(graph: ir.Model) -> list[tuple[object, ...]]:
    values = [*graph.graph.inputs, *graph.graph.outputs]
    return [(value.name, value.dtype, axes_of(value)) for value in values]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:240] if text else type(error).__name__
