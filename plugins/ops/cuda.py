"""The ops on CUDA tensors: our kernels where they are built and take the call, else the PyTorch reference.

The ops are functional: what the kernels could write in place (present over past) gets memory of its own here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import DTYPES, KernelRefused, Kernels, TensorOf, token_stride

if TYPE_CHECKING:
    from seqexport.plugins.ops.op import Op

Outputs = Sequence[Tensor]


@functools.cache
def kernels() -> Kernels | None:
    """The built kernel library, loaded once; None if it was never built.

    Raises:
        UserError: it is damaged, or of another seqexport version.
    """
    found = library.find("kernels")
    return None if found is None else Kernels(found.path)


def implementation(op: Op) -> Callable[..., Outputs]:
    """``op`` for CUDA tensors, with the parameters of its reference."""

    def run(*arguments: Any, **attributes: Any) -> Outputs:
        loaded = kernels()
        if loaded is None or op.stem not in loaded.ops or not _is_typed(op, arguments, attributes):
            return op.reference(*arguments, **attributes)
        try:
            with torch.cuda.device_of(arguments[0]):
                return _launched(loaded, op, arguments, attributes)
        except KernelRefused:  # sizes beyond the kernels'
            return op.reference(*arguments, **attributes)

    return run


def _launched(loaded: Kernels, op: Op, arguments: Sequence[Any], attributes: Mapping[str, Any]) -> Outputs:
    """The kernels' outputs, in memory of their own. The stream orders the reuse of their workspace after them."""
    described = loaded.ops[op.stem]
    count = len(op.inputs)
    inputs = [_readable(tensor, each) for tensor, each in zip(arguments[:count], described.inputs, strict=True)]
    values = {**dict(zip(op.attributes, arguments[count:], strict=False)), **attributes}
    outputs = [each.contiguous() for each in op.fake(*inputs, **values)]
    given = {name for name, tensor in zip(op.input_names, inputs, strict=True) if tensor is not None}
    params = loaded.params(op.stem, *inputs, **dict(zip(op.output_names(given), outputs, strict=True)), **values)
    if described.workspace:
        workspace = torch.empty(loaded.workspace(op.stem, params), dtype=torch.uint8, device=outputs[0].device)
        params.workspace, params.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
    loaded.call(op.stem, params, torch.cuda.current_stream().cuda_stream)
    return outputs


def _readable(tensor: Tensor | None, described: TensorOf) -> Tensor | None:
    """The tensor itself where its strides are ones that the kernels read, such as a slice of a fused projection."""
    if tensor is None or not described.stride:
        return None if tensor is None else tensor.contiguous()
    try:
        token_stride(tensor)
    except ValueError:
        return tensor.contiguous()
    return tensor


def _is_typed(op: Op, arguments: tuple[object, ...], attributes: Mapping[str, object]) -> bool:
    """Whether every tensor has the type of the op's schema, T being one that the kernels have, and is on one GPU."""
    first = arguments[0]
    if not isinstance(first, Tensor) or str(first.dtype).removeprefix("torch.") not in DTYPES:
        return False
    positional = dict(zip(op.attributes, arguments[len(op.inputs) :], strict=False))
    wide = {**op.attributes, **positional, **attributes}.get("wide")
    expected = {"T": first.dtype, "F": torch.float32, "I": torch.int32, "S": torch.float32 if wide else first.dtype}
    pairs = zip(op.inputs.values(), arguments, strict=False)
    given = [(expected[kind], tensor) for kind, tensor in pairs if isinstance(tensor, Tensor)]
    return all(tensor.dtype == dtype and tensor.device == first.device for dtype, tensor in given)
