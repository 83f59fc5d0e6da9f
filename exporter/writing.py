"""What every export writes and how: a bundle's folder, whole or not at all, and what its manifest says of any graph."""

from __future__ import annotations

import datetime
import errno
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import msgspec
import onnx_ir as ir
import torch
from torch import nn

from seqexport.exporter.destination import Destination
from seqexport.exporter.interface import axes_of
from seqexport.exporter.passes import opset_27
from seqexport.exporter.passes.functions import is_in
from seqexport.exporter.trace import TRACED_OPSETS
from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.plugins.ops import DOMAIN
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MODEL, Bundle, open_bundle, write_manifest
from seqexport.runtimes.manifest import Element, Manifest, Role, Source, Target, TensorSpec
from seqexport.runtimes.pytorch.fingerprint import fingerprint

Stage = Callable[[str], AbstractContextManager[object]]
"""Called with the name of each step; the step runs inside what it gives."""


def check_opset(opset: int, target: Target) -> None:
    """Raises UserError: no graph for the target is written in the opset."""
    traced = f"{TRACED_OPSETS[0]} to {TRACED_OPSETS[-1]}"
    if opset == opset_27.OPSET and target != "portable":
        raise UserError(f"`opset` {opset} is for `target='portable'`; for {target} expected {traced}")
    if opset not in (*TRACED_OPSETS, opset_27.OPSET):
        raise UserError(f"`opset` {opset}: expected {traced}, or {opset_27.OPSET} with `target='portable'`")


def write_bundle(
    output: Destination,
    manifest: Manifest,
    graph: ir.Model,
    stage: Stage,
    *,
    files: Callable[[Path], None] = lambda folder: None,
    record: Callable[[Bundle], None],
) -> Bundle:
    """Write a bundle; nothing of its name appears before it is whole.

    Args:
        files: writes further files into the folder.
        record: writes the original's answers into the bundle that it is given.

    Raises:
        UserError: it cannot be written, or what ``record`` raises; nothing is left behind.
    """
    with output.folder() as folder:
        with stage("write weights"):
            ir.save(graph, folder / MODEL, external_data=f"{MODEL}.data")
            _check_written(folder)
            files(folder)
        with stage("record the original's answers"):
            record(Bundle(folder, manifest))
        with stage("seal"):
            hashes = {file.name: sha256(file) for file in sorted(folder.iterdir())}
            write_manifest(folder, msgspec.structs.replace(manifest, files=hashes))
            open_bundle(folder, check_files=False)
    return open_bundle(output.path, check_files=False)


def _check_written(folder: Path) -> None:
    """NumPy, which writes some of the weights, says nothing when a disk is full.

    Raises:
        OSError: the weights were cut short.
    """
    tensors = [value.const_value for value in ir.load(folder / MODEL).graph.initializers.values()]
    external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    expected = max(((tensor.offset or 0) + (tensor.length or 0) for tensor in external), default=0)
    if external and (folder / f"{MODEL}.data").stat().st_size < expected:
        raise OSError(errno.ENOSPC, "the weights were cut short; is the disk full?")


def our_ops(graph: ir.Model) -> dict[str, int]:
    """How many nodes of each of our ops the graph has."""
    return dict(Counter(node.op_type for node in graph.graph.all_nodes() if is_in(DOMAIN, node)))


def tensor_specs(values: Iterable[ir.Value], role: Callable[[str], Role]) -> tuple[TensorSpec, ...]:
    """What the manifest says of inputs or outputs; ``role`` by name."""
    return tuple(_tensor_spec(value, role) for value in values)


def _tensor_spec(value: ir.Value, role: Callable[[str], Role]) -> TensorSpec:
    assert value.name and value.dtype is not None
    return TensorSpec(
        name=value.name, dtype=cast("Element", str(value.dtype.numpy())), shape=axes_of(value), role=role(value.name)
    )


def source_of(model: nn.Module, name: str, *, clamped: Sequence[str] = ()) -> Source:
    """Where the weights came from, and what exports them now."""
    return Source(
        model=name,
        parameters=sum(p.numel() for p in model.parameters()),
        seqexport=library.version(),
        torch=str(torch.__version__),
        transformers=importlib.metadata.version("transformers"),
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        clamped=tuple(clamped),
        weights=fingerprint(model),
    )
