"""A tensor in ONNX Runtime's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seqexport.runtimes.ort import device_copy
from seqexport.runtimes.storage import from_float32, readable, storage

BFLOAT16 = 16
"""ONNX's number of the type, for a binding of memory that holds it."""


class Tensor:
    """Memory of one address for as long as the object lives.

    Args:
        value: an ``OrtValue`` of ``storage(dtype)``.
        dtype: of the elements: float32, float16, bfloat16, int32 or int64.
        memory: the array whose memory it is, where it is the host's.
    """

    def __init__(self, value: Any, dtype: str, device: str, memory: NDArray[Any] | None = None) -> None:
        self.value, self.dtype, self.device, self._memory = value, dtype, device, memory

    @classmethod
    def of(cls, stored: NDArray[Any], dtype: str, device: str) -> Tensor:
        """With an array of ``storage(dtype)``, which the CPU's tensor keeps as its memory."""
        value = ort.OrtValue.ortvalue_from_numpy(stored, device, 0)
        return cls(value, dtype, device, stored if device == "cpu" else None)

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
        """The values, which may be the tensor's own memory; bfloat16 as float32."""
        return readable(self._stored(), self.dtype)

    def read_row(self, row: int) -> NDArray[Any]:
        """The values [1, ...] of one sequence, which may be the tensor's own memory; bfloat16 as float32."""
        return readable(self._stored_row(row), self.dtype)

    def _stored(self) -> NDArray[Any]:
        """Its memory, or a copy where that is the device's."""
        return self.value.numpy() if self._memory is None else self._memory

    def _stored_row(self, row: int) -> NDArray[Any]:
        """As ``_stored``, of one sequence alone."""
        if not self._has_rows:
            return self._stored()[row : row + 1]
        stored = np.empty([1, *self.value.shape()[1:]], storage(self.dtype))
        device_copy.copy(stored.ctypes.data, self._address(row), stored.nbytes)
        return stored

    @property
    def _has_rows(self) -> bool:
        """Whether one sequence can be copied from the device and to it by itself."""
        return self._memory is None and device_copy.runtime() is not None

    def _address(self, row: int) -> int:
        return int(self.value.data_ptr()) + row * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.value.shape()[1:])) * storage(self.dtype).itemsize

    def write_row(self, row: int, given: NDArray[Any]) -> None:
        """Values [1, ...] of one sequence, the first along axis 2 where there are fewer, to the same address."""
        if self._has_rows:
            part = self._stored_row(row)
            self._fill(part, given)
            device_copy.copy(self._address(row), part.ctypes.data, part.nbytes)
            return
        stored = self._stored()
        self._fill(stored[row : row + 1], given)
        if self._memory is None:
            self.value.update_inplace(stored)

    def _fill(self, part: NDArray[Any], given: NDArray[Any]) -> None:
        (part if part.ndim < 3 else part[:, :, : given.shape[2]])[...] = from_float32(given, self.dtype)

    def copy_rows(self, rows: slice, other: Tensor, theirs: slice) -> bool:
        """Take over sequences of another tensor without leaving the device; False where that cannot be done."""
        if self._row_bytes != other._row_bytes:
            return False
        if self._memory is not None and other._memory is not None:
            self._memory[rows] = other._memory[theirs]
        elif self._has_rows and other._has_rows:
            size = (rows.stop - rows.start) * self._row_bytes
            device_copy.copy(self._address(rows.start), other._address(theirs.start), size)
        else:
            return False
        return True

    def clear(self) -> None:
        """Make it zeros, at the same address."""
        if self._memory is not None:
            self._memory[...] = 0
        elif self._has_rows:
            device_copy.clear(self._address(0), int(self.value.shape()[0]) * self._row_bytes)
        else:
            self.write(np.zeros(self.value.shape(), storage(self.dtype)))

    def write(self, stored: NDArray[Any]) -> None:
        """Values as ``storage(dtype)``, to the same address."""
        self.value.update_inplace(stored)
