"""The files that an ONNX graph's tensors lie in, read from its protobuf: the runtimes need no onnx package.

ModelProto      7 graph · 20 training_info · 25 functions
TrainingInfo    1 initialization · 2 algorithm: graphs
GraphProto      1 node · 5 initializer · 15 sparse_initializer
FunctionProto   7 node · 11 attribute_proto
NodeProto       5 attribute
AttributeProto  5 t · 6 g · 10 tensors · 11 graphs · 22 sparse_tensor · 23 sparse_tensors
SparseTensor    1 values · 2 indices
TensorProto     13 external_data
its entry       1 key · 2 value
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import ANY, is_inside, regular
from seqexport.runtimes.protobuf import NotWhole, fields, mapped

_Message: TypeAlias = "dict[int, _Message]"

ENTRY: _Message = {}
TENSOR: _Message = {13: ENTRY}
SPARSE: _Message = {1: TENSOR, 2: TENSOR}
GRAPH: _Message = {5: TENSOR, 15: SPARSE}
ATTRIBUTE: _Message = {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE}
NODE: _Message = {5: ATTRIBUTE}
GRAPH[1] = NODE
MODEL: _Message = {7: GRAPH, 20: {1: GRAPH, 2: GRAPH}, 25: {7: NODE, 11: ATTRIBUTE}}
LOCATION = b"location"
MEMORY = "_ORT_MEM_ADDR_"
"""In a name that ONNX Runtime takes for an address of its own memory."""


def locations(model: Path) -> set[str]:
    """The files that a graph's tensors lie in, as it names them; bytes that are no text are kept as surrogates.

    A file that is no whole graph is read as far as it goes: every runtime refuses it.

    Raises:
        OSError: the file cannot be read.
    """
    status = model.stat()
    return set(_read(model, status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=16)
def _read(model: Path, *state: int) -> frozenset[str]:
    """Of a file in one state: a bundle's graph is looked at when it is opened, and when a runtime is given it."""
    found = set[str]()
    with mapped(model) as data, suppress(NotWhole, RecursionError):
        found.update(_locations(data, 0, len(data), MODEL))
    return frozenset(found)


def check_inside(model: Path) -> None:
    """Refuse a graph whose tensors lie outside of its own folder, or in no file: it would be read, whatever it is.

    Raises:
        UserError: naming the file.
        OSError: the graph cannot be read.
    """
    for name in sorted(locations(model)):
        if MEMORY in name or not is_inside(model.parent, name):
            raise UserError(f"{model}: has weights in {name!r}, outside its folder; put the file itself beside it")
        try:
            regular(model.parent / name, ANY, model.parent)
        except FileNotFoundError:  # which runtimes say
            continue
        except OSError as error:
            raise UserError(f"{model}: has weights in {name!r}, which cannot be read ({error.strerror})") from error


def _locations(data: mmap.mmap | bytes, start: int, end: int, message: _Message) -> Iterator[str]:
    entry: dict[int, bytes] = {}
    for field in fields(data, start, end):
        if not field.is_bytes:
            continue
        if message is ENTRY:
            entry[field.number] = data[field.begin : field.end]
        elif (inner := message.get(field.number)) is not None:
            yield from _locations(data, field.begin, field.end, inner)
    if entry.get(1) == LOCATION:
        yield entry.get(2, b"").decode(errors="surrogateescape")
