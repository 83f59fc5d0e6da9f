"""The graph that TensorRT is given: a bundle's own, or with the ops' function bodies dropped or written out in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle

DOMAIN = "seqexport"
FUNCTIONS_SINCE = 10
"""TensorRT's first major version whose parser reads model-local functions."""

Change = Literal["none", "drop", "inline"]
"""What is done to the functions: nothing, dropped so that the parser asks for plugins, or written out as nodes."""


def change_needed(bundle: Bundle, *, plugins: bool, major: int) -> Change:
    """What TensorRT of a major version needs done to a bundle's graph.

    Raises:
        UserError: it cannot be built; with the command that exports what can.
    """
    target, contract = bundle.contract.target, bundle.contract
    again = f"seqexport onnx --model {contract.source.model} --target"
    if target == "ort":
        raise UserError(f"{bundle.path}: target ort is for ONNX Runtime alone; export it with: {again} tensorrt")
    if contract.dtype == "bfloat16" and major < FUNCTIONS_SINCE:
        raise UserError(f"{bundle.path} is bfloat16, which TensorRT {major} has not; export with --dtype fp16 or fp32")
    if target == "tensorrt":
        if plugins:
            return "none"
        raise UserError(f"{bundle.path}: target tensorrt has no function bodies; export it with: {again} portable")
    if not plugins:
        return "none" if major >= FUNCTIONS_SINCE else "inline"
    if major < FUNCTIONS_SINCE and contract.ops:
        raise UserError(
            f"{bundle.path}: TensorRT {major} reads target portable only with --no-plugins; for plugins, export it "
            f"with: {again} tensorrt"
        )
    return "drop"


def graph_bytes(model: Path, change: Change) -> bytes:
    """The graph without its weights file, which TensorRT finds by the model's path.

    Raises:
        UserError: the file cannot be read, or a change needs the onnx package.
    """
    try:
        data = model.read_bytes()
    except OSError as error:
        raise UserError(f"{model}: cannot be read ({error.strerror})") from error
    if change == "none":
        return data
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"building {model} needs the onnx package: pip install onnx") from error
    graph = onnx.load_model_from_string(data)
    if change == "drop":
        drop_functions(graph)
    else:
        graph = inlined(graph)
    return bytes(graph.SerializeToString())


def drop_functions(model: Any) -> None:
    """Leave our ops as plain nodes, those of their inputs that are given named in the attribute ``inputs``."""
    from onnx import helper

    functions = {(f.name, f.overload): f for f in model.functions if f.domain == DOMAIN}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        names = functions[node.op_type, node.overload].input
        given = [name for name, value in zip(names, node.input, strict=False) if value]
        node.attribute.append(helper.make_attribute("inputs", ",".join(given)))
        values = [value for value in node.input if value]
        del node.input[:]
        node.input.extend(values)
        node.overload = ""
    kept = [f for f in model.functions if f.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(kept)


def inlined(model: Any) -> Any:
    """The model with every function written out as nodes, and no Shape with ``start`` or ``end``.

    TensorRT 8 reads such a Shape as if it had neither.
    """
    from onnx import helper
    from onnx.inliner import inline_local_functions

    flat = inline_local_functions(model)
    nodes = []
    for node in flat.graph.node:
        bounds = {a.name: a.i for a in node.attribute} if node.op_type == "Shape" else {}
        if not bounds:
            nodes.append(node)
            continue
        out = node.output[0]
        whole, start, end = (f"{out}_{part}" for part in ("whole", "start", "end"))
        nodes += [
            helper.make_node("Shape", [node.input[0]], [whole]),
            helper.make_node("Constant", [], [start], value_ints=[bounds.get("start", 0)]),
            helper.make_node("Constant", [], [end], value_ints=[bounds.get("end", 2**31 - 1)]),
            helper.make_node("Slice", [whole, start, end], [out]),
        ]
    del flat.graph.node[:]
    flat.graph.node.extend(nodes)
    return flat


def node_at(graph: bytes, index: int) -> str | None:
    """``SelectiveScan /layers.0/scan``: the op and the name of the graph's node ``index``; None where nothing tells."""
    try:
        import onnx

        node = onnx.load_model_from_string(graph).graph.node[index]
    except Exception:
        return None
    return re.sub(r"\s+", " ", f"{node.op_type} {node.name}".strip())
