"""What an export tells its user before the long work: what is left out, and where the bundle will not run."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from transformers import PreTrainedModel

from seqexport.exporter import models
from seqexport.exporter.original import Original
from seqexport.exporter.passes import opset_27
from seqexport.exporter.passes.linear_attention import MOST_STATES
from seqexport.runtimes.manifest import Target, dtype_name

BFLOAT16 = {
    "portable": "ONNX Runtime's CPU has no kernels for it, so the bundle will run on CUDA alone",
    "ort": "ONNX Runtime's CPU has no kernels for it, so the bundle will run on CUDA alone",
    "tensorrt": "TensorRT has it from version 10 on",
}


def before_tracing(original: Original, target: Target, capacity: int | None) -> Iterator[str]:
    """One line each; ``capacity`` is that of the caches, None where there are none."""
    model = original.model
    if original.whole not in (None, model.config.model_type):
        kind = model.config.model_type
        yield f"{original.name} is a {original.whole}; only its language model ({kind}) is exported, for text alone"
    yield from of_dtype(dtype_name(model.dtype), target)
    if capacity is not None:
        yield f"capacity: {capacity:,} tokens a sequence{_why(model, capacity)}"


def of_dtype(dtype: str, target: Target) -> Iterator[str]:
    """Where a bundle in the dtype will not run."""
    if dtype == "bfloat16":
        yield f"bfloat16: {BFLOAT16[target]}; else export in fp16 or fp32"


def after_tracing(graph: ir.Model) -> Iterator[str]:
    """What of a graph in opset 27 is in our own bodies."""
    if graph.opset_imports[""] == opset_27.OPSET and (kept := opset_27.kept(graph)):
        yield (
            f"opset {opset_27.OPSET} has ops for CausalConv1d, and for SsdScan of up to {MOST_STATES} states; our own "
            f"bodies stay in {', '.join(sorted(kept))}"
        )


def _why(model: PreTrainedModel, capacity: int) -> str:
    limit, stated = models.position_limit(model), models.stated_capacity(model)
    if limit is not None and limit[0] == capacity:
        more = f" (its config says {stated:,})" if stated is not None and stated > capacity else ""
        return f", and no more are possible: {type(model).__name__} {limit[1]} {capacity:,}{more}"
    return "; `max_len` sets another number" + (f", to {limit[0]:,} at most" if limit else "")
