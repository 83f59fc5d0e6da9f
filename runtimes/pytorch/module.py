"""The PyTorch original of a bundle of any module: what every error is measured against."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.module import Array, Arrays, ModuleRunner, checked
from seqexport.runtimes.pytorch.attributes import evaluating
from seqexport.runtimes.pytorch.factory import make_module
from seqexport.runtimes.pytorch.fingerprint import fingerprint
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from seqexport.runtimes.pytorch.outputs import named_outputs, to_numpy
from seqexport.runtimes.pytorch.runner import Arithmetic
from seqexport.runtimes.quiet import one_line


class TorchModule(ModuleRunner):
    """The original of a bundle.

    Args:
        original: the module itself, in evaluation mode for its calls and as it was afterwards; or
            ``package.module:factory``, whose code is run.
        weights: of what the factory makes.
        device: a torch device; a module that is given is used where it is.
        threads: how many CPU threads PyTorch uses, in the whole process, until this is closed.
        arithmetic: ``float64`` computes in float64 whatever the module's dtype, and gives float64 arrays.

    Raises:
        UserError: nothing says what the original is, it cannot be made, or it is not what was exported.
    """

    backend: ClassVar[str] = "torch"

    def __init__(
        self,
        bundle: Bundle,
        original: str | nn.Module | None = None,
        *,
        weights: Path | None = None,
        device: str | None = None,
        threads: int | None = None,
        arithmetic: Arithmetic = "native",
    ) -> None:
        super().__init__(bundle)
        self.arithmetic = arithmetic
        self._threads_before = torch.get_num_threads()
        self.module = original if isinstance(original, nn.Module) else self._made(original, weights, device or "cpu")
        self.device = next((x.device for x in (*self.module.parameters(), *self.module.buffers())), torch.device("cpu"))
        if threads is not None:
            torch.set_num_threads(threads)

    def _made(self, original: str | None, weights: Path | None, device: str) -> nn.Module:
        manifest = self.manifest
        if original is None:
            raise UserError(
                f"{self.bundle.path} was exported from {manifest.source.model}: say how its original is made with "
                "`original='package.module:factory'`, whose code is then run"
            )
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(f"PyTorch {torch.__version__} finds no CUDA device here; use `device='cpu'`")
        module = make_module(original, weights)
        if module_dtype(module) not in (None, getattr(torch, manifest.dtype)):
            module = module.to(getattr(torch, manifest.dtype))
        if manifest.source.weights and fingerprint(module) != manifest.source.weights:
            raise UserError(
                f"`original` {original}: its weights are not those that {self.bundle.path} was exported with"
                f"{'' if weights else '; give their file with `weights`'}"
            )
        return module.to(device)

    @property
    def description(self) -> str:
        on_cpu = self.device.type == "cpu"
        where = f"{torch.get_num_threads()} CPU threads" if on_cpu else str(torch.cuda.get_device_name(self.device))
        precise = ", float64 arithmetic" if self.arithmetic == "float64" else ""
        return f"PyTorch {torch.__version__}, {where}{precise}"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the module: also those that nothing reads, which the graph lacks."""
        return tuple(inspect.signature(self.module.forward).parameters)

    def __call__(self, inputs: Mapping[str, Array]) -> Arrays:
        read = {spec.name for spec in self.manifest.inputs}
        rest = {name: array for name, array in inputs.items() if name not in read}
        given = checked(self.manifest.inputs, {name: array for name, array in inputs.items() if name in read})
        return self._run({**given, **rest})

    def _run(self, inputs: Arrays) -> Arrays:
        wide = self.arithmetic == "float64"
        tensors = {name: self._tensor(name, array) for name, array in inputs.items()}
        kind = type(self.module).__name__
        arithmetic = float64_arithmetic if wide else nullcontext
        with (
            one_line(kind, f"fails in PyTorch in {self.arithmetic_in}"),
            torch.no_grad(),
            evaluating(self.module),
            arithmetic(),
        ):
            outputs = dict(named_outputs(self.module(**tensors)))
        return {name: to_numpy(tensor) for name, tensor in outputs.items()}

    @property
    def arithmetic_in(self) -> str:
        """The dtype that it computes in."""
        return "float64" if self.arithmetic == "float64" else self.manifest.dtype

    def _tensor(self, name: str, array: Array) -> Tensor:
        spec = self.manifest.input_named(name)
        tensor = torch.from_numpy(np.array(array)).to(self.device)
        return tensor if spec is None else tensor.to(getattr(torch, spec.dtype))

    def reset_peak_device_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_device_memory(self) -> int | None:
        """Bytes of device memory at most in use since the reset; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def _close(self) -> None:
        torch.set_num_threads(self._threads_before)
        del self.module


def module_dtype(module: nn.Module) -> torch.dtype | None:
    """The narrowest of a module's floats: what it is said to be in; None where it has none."""
    floats = {x.dtype for x in (*module.parameters(), *module.buffers()) if x.is_floating_point()}
    return min(floats, key=lambda dtype: (dtype.itemsize, str(dtype)), default=None)
