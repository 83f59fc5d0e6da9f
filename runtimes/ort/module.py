"""ONNX Runtime: the graph of any module, called with arrays."""

from __future__ import annotations

from typing import ClassVar

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.module import Arrays, ModuleRunner
from seqexport.runtimes.ort import cuda
from seqexport.runtimes.ort.library import OpsLibrary
from seqexport.runtimes.ort.runner import Device, check_runs, described, open_engine
from seqexport.runtimes.ort.session import first_line


class OrtModule(ModuleRunner):
    """A bundle in an ONNX Runtime session.

    Args:
        bundle: an opened bundle.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU provider; default: all cores.
        plugins: False runs the ops' function bodies even where the compiled library could run them.

    Raises:
        UserError: the provider is not there, the library is damaged, or ONNX Runtime refuses the graph.
    """

    backend: ClassVar[str] = "ort"

    def __init__(
        self, bundle: Bundle, *, device: Device = "cpu", threads: int | None = None, plugins: bool = True
    ) -> None:
        super().__init__(bundle)
        self.device = device
        if device == "cuda":
            cuda.preload()
        check_runs(bundle, device)
        self._check_dtypes()
        self.ops = OpsLibrary.for_graph(self.manifest.ops, device, plugins=plugins)
        self.engine = open_engine(bundle, self.ops, device=device, threads=threads)

    def _check_dtypes(self) -> None:
        narrow = [x.name for x in (*self.manifest.inputs, *self.manifest.outputs) if x.dtype == "bfloat16"]
        if narrow:
            raise UserError(
                f"{self.bundle.path}: {narrow[0]} is bfloat16, which ONNX Runtime does not hand to NumPy; export in "
                "fp16 or fp32"
            )

    @property
    def description(self) -> str:
        return described(self.bundle, self.ops, self.device)

    def _run(self, inputs: Arrays) -> Arrays:
        names = [spec.name for spec in self.manifest.outputs]
        try:
            return dict(zip(names, self.engine.run(names, inputs), strict=True))
        except Exception as error:
            raise UserError(f"ONNX Runtime failed: {first_line(error)}") from error

    def _close(self) -> None:
        del self.engine
