"""Our passes, each a function that changes a graph in place, as passes of onnx-ir."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir


class GraphPass(ir.passes.InPlacePass):
    """A function on a model, with its options, as a pass. It is taken to have changed the graph.

    Args:
        change: takes the model and the options, and returns nothing.
        options: its keyword arguments.
    """

    def __init__(self, change: Callable[..., None], **options: Any) -> None:
        super().__init__()
        self.change, self.options = change, options

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        self.change(model, **self.options)
        return ir.passes.PassResult(model, modified=True)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.change.__name__}({options})"
