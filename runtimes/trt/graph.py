"""The graph that TensorRT is given: a bundle's own, or with the ops' function bodies dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import read
from seqexport.runtimes.bundle import FACTORY, MEMORY, MOST_PROTOBUF, Bundle

DOMAIN = "seqexport"
OURS = re.compile(rf"{DOMAIN}(\.\d+)?")
"""The domain of our ops, and those that tell bodies of one op apart."""

UNREAD_BODIES = ("Experts",)
"""Ops whose bodies no TensorRT reads: how many tokens an expert has is known when it runs, in a loop at that, and sums
are scattered (NonZero, ScatterND with a reduction)."""

FUNCTIONS_SINCE = 10
"""TensorRT's first major version whose parser reads model-local functions."""


def drops_bodies(bundle: Bundle, *, plugins: bool, major: int) -> bool:
    """Whether a bundle's function bodies are in the way of TensorRT of a major version: it would build those.

    Raises:
        UserError: it cannot be built; with the command that exports what can.
    """
    target, manifest = bundle.manifest.target, bundle.manifest
    if target == "ort":
        raise UserError(
            f"{bundle.path}: target ort is for ONNX Runtime alone; export it with: {_again(bundle, 'tensorrt')}"
        )
    if manifest.dtype == "bfloat16" and major < FUNCTIONS_SINCE:
        raise UserError(f"{bundle.path} is bfloat16, which TensorRT {major} has not; export in fp16 or fp32")
    if target == "tensorrt":
        if plugins:
            return False
        raise UserError(
            f"{bundle.path}: target tensorrt has no function bodies; export it with: {_again(bundle, 'portable')}"
        )
    if major < FUNCTIONS_SINCE:
        raise UserError(
            f"{bundle.path}: TensorRT {major} misreads the opset and the functions of target {target}; export it with: "
            f"{_again(bundle, 'tensorrt')}, and build it with the plugins"
        )
    unread = [op for op in UNREAD_BODIES if op in manifest.ops]
    if unread and not plugins:
        raise UserError(
            f"{bundle.path}: TensorRT cannot read the function body of {unread[0]}; build it with the plugins instead "
            "of `plugins=False`"
        )
    return plugins


def _again(bundle: Bundle, target: str) -> str:
    """What exports the bundle's model for another target."""
    source = bundle.manifest.source.model
    if source.startswith(MEMORY):
        return f"`target={target!r}`"
    flag = "--module" if source.startswith(FACTORY) else "--model"
    return f"seqexport onnx {flag} {source.removeprefix(FACTORY)} --target {target}"


def graph_bytes(model: Path, *, drop: bool) -> bytes:
    """The graph without its weights file, which TensorRT finds by the model's path.

    Raises:
        UserError: the file cannot be read, or bodies are to be dropped and there is no onnx package.
    """
    try:
        data = read(model, MOST_PROTOBUF)
    except OSError as error:
        raise UserError(f"{model}: cannot be read ({error.strerror})") from error
    if not drop:
        return data
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"building {model} needs the onnx package (pip install onnx), or an export with `target='tensorrt'`"
        ) from error
    graph = onnx.load_model_from_string(data)
    drop_functions(graph)
    return bytes(graph.SerializeToString())


def drop_functions(model: Any) -> None:
    """Leave our ops as plain nodes, those of their inputs that are given named in the attribute ``inputs``."""
    inputs = {(f.domain, f.name): f.input for f in model.functions if OURS.fullmatch(f.domain)}
    for node in model.graph.node:
        if not OURS.fullmatch(node.domain):
            continue
        if not any(attribute.name == "inputs" for attribute in node.attribute):
            _close_gaps(node, inputs[node.domain, node.op_type])
        node.domain, node.overload = DOMAIN, ""
    kept = [f for f in model.functions if not OURS.fullmatch(f.domain)]
    del model.functions[:]
    model.functions.extend(kept)


def _close_gaps(node: Any, names: Sequence[str]) -> None:
    """Of a bundle from before the export did so."""
    from onnx import helper

    given = {name: value for name, value in zip(names, node.input, strict=False) if value}
    del node.input[:]
    node.input.extend(given.values())
    node.attribute.append(helper.make_attribute("inputs", ",".join(given)))


def node_at(graph: bytes, index: int) -> str | None:
    """``SelectiveScan /layers.0/scan``: the op and the name of the graph's node ``index``; None where nothing tells."""
    try:
        import onnx

        node = onnx.load_model_from_string(graph).graph.node[index]
    except Exception:
        return None
    return re.sub(r"\s+", " ", f"{node.op_type} {node.name}".strip())
