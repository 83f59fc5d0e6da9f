"""What the cases share: the kernel library, the rates of this GPU, random tensors, and the check against float64."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqexport.plugins.kernels.c_api import Kernels
from seqexport.runtimes.benchmarks.kernels.timing import Call, clock_during, microseconds

SPECIAL_FUNCTIONS_PER_CLOCK, FLOAT32_FMAS_PER_CLOCK = 16, 128  # of one SM


@dataclass(frozen=True)
class Rates:
    """Bytes a second of a copy, counting what it reads and writes, and operations a second of a bf16 product."""

    copy: float
    product: float

    @classmethod
    def measured(cls) -> Rates:
        source, target = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
        a = bf16(8192, 8192)
        return cls(
            copy=2 * 2**30 / microseconds(lambda: target.copy_(source), 20) * 1e6,
            product=2 * 8192**3 / microseconds(lambda: a @ a, 10) * 1e6,
        )

    def floor(self, moved: float, operations: float = 0.0) -> float:
        """Microseconds in which so many bytes can be moved, and so many operations done on the matrix units."""
        return max(moved / self.copy, operations / self.product) * 1e6


class Bench:
    """Calls of the kernel library, on a GPU whose rates are known."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels, self.rates = kernels, Rates.measured()
        self.sms = torch.cuda.get_device_properties(0).multi_processor_count

    def call(self, op: str, *args: Any, **tensors: Any) -> Call:
        """A call of the op with a workspace of its own; its tensors live as long as it can be made."""
        params = self.kernels.params(op, *args, **tensors)
        size = self.kernels.workspace(op, params)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        if size:
            params.workspace, params.workspace_bytes = workspace.data_ptr(), size
        return functools.partial(self._launch, op, params, (workspace, args, tensors))

    def _launch(self, op: str, params: Any, kept: object) -> None:
        self.kernels.call(op, params, torch.cuda.current_stream().cuda_stream)

    def special_function_floor(self, operations: float, call: Call) -> float:
        """Microseconds of so many special functions, at the clock that ``call`` runs at."""
        return operations / (SPECIAL_FUNCTIONS_PER_CLOCK * self.sms * clock_during(call)) * 1e6

    def float32_floor(self, operations: float, call: Call) -> float:
        """Microseconds of so many float32 operations on the FMA units, at the clock that ``call`` runs at."""
        return operations / (2 * FLOAT32_FMAS_PER_CLOCK * self.sms * clock_during(call)) * 1e6


def bf16(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(torch.bfloat16)


def poisoned(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """An output that is wrong wherever it is not written."""
    return torch.full(shape, float("nan"), device="cuda", dtype=dtype)


def require_near(ours: Tensor, true: Tensor, bound: float) -> None:
    """Raises ArithmeticError: the relative error against float64 is above ``bound``."""
    error = ((ours.double() - true.double()).norm() / true.double().norm()).item()
    if not error <= bound:
        raise ArithmeticError(f"error {error:.2e} against float64, above {bound:.0e}; not timed")
