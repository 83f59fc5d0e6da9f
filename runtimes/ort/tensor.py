"""A tensor in ONNX Runtime's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from seqexport.runtimes.storage import readable, storage

BFLOAT16 = 16
"""ONNX's number of the type, for a binding of memory that holds it."""


class Tensor:
    """Memory of one address for as long as the object lives.

    Args:
        value: an ``OrtValue`` of ``storage(dtype)``.
        dtype: of the elements: float32, float16, bfloat16, int32 or int64.
    """

    def __init__(self, value: Any, dtype: str, device: str) -> None:
        self.value, self.dtype, self.device = value, dtype, device

    @classmethod
    def of(cls, stored: NDArray[Any], dtype: str, device: str) -> Tensor:
        """With an array of ``storage(dtype)``, which the CPU's tensor keeps as its memory."""
        return cls(ort.OrtValue.ortvalue_from_numpy(stored, device, 0), dtype, device)

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: str, device: str) -> Tensor:
        return cls(ort.OrtValue.ortvalue_from_shape_and_type(shape, storage(dtype), device, 0), dtype, device)

    def bind_input(self, binding: Any, name: str) -> None:
        if self.dtype == "bfloat16":
            binding.bind_input(name, self.device, 0, BFLOAT16, self.value.shape(), self.value.data_ptr())
        else:
            binding.bind_ortvalue_input(name, self.value)

    def bind_output(self, binding: Any, name: str) -> None:
        if self.dtype == "bfloat16":
            binding.bind_output(name, self.device, 0, BFLOAT16, self.value.shape(), self.value.data_ptr())
        else:
            binding.bind_ortvalue_output(name, self.value)

    def read(self) -> NDArray[Any]:
        """The values; bfloat16 as float32."""
        return readable(self.value.numpy(), self.dtype)

    def write(self, stored: NDArray[Any]) -> None:
        """Values as ``storage(dtype)``, to the same address."""
        self.value.update_inplace(stored)
