"""The shapes of a graph's weights, read from its protobuf: what a layer is wide follows from them.

ModelProto   7 graph
GraphProto   5 initializer
TensorProto  1 dims
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.protobuf import NotWhole, fields, mapped, numbers

GRAPH, INITIALIZER, DIMS = 7, 5, 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Widths:
    """Sizes of a language model's layers, in elements of a token.

    Attributes:
        hidden: of what goes from layer to layer.
        widest: the widest output of a matrix but for the vocabulary's.
        tables: how many matrices have the vocabulary as an axis, 2 where embedding and output have one each.
    """

    hidden: int
    widest: int
    tables: int


def widths(bundle: Bundle) -> Widths:
    """Those of a bundle's graph; all 0 where it holds no matrix, or cannot be read to its end."""
    try:
        with mapped(bundle.model) as data:
            matrices = [shape for shape in shapes(data) if len(shape) >= 2]
    except NotWhole:
        matrices = []
    model = bundle.manifest.language_model
    vocab = model.vocab_size if model else 0
    tables = [shape for shape in matrices if vocab in shape and len(shape) == 2]
    layers = [max(shape[-2:]) for shape in matrices if vocab not in shape]
    hidden = max((min(shape[-2:]) for shape in tables or matrices), default=0)
    return Widths(hidden, max(layers, default=hidden), len(tables))


def shapes(data: mmap.mmap | bytes) -> Iterator[Shape]:
    """The shape of each weight of a model's graph.

    Raises:
        NotWhole: the bytes are no model.
    """
    for graph in fields(data, 0, len(data)):
        if graph.number != GRAPH or not graph.is_bytes:
            continue
        for tensor in fields(data, graph.begin, graph.end):
            if tensor.number == INITIALIZER and tensor.is_bytes:
                yield tuple(_dims(data, tensor.begin, tensor.end))


def _dims(data: mmap.mmap | bytes, begin: int, end: int) -> Iterator[int]:
    for field in fields(data, begin, end):
        if field.number == DIMS:
            yield from numbers(data, field)
