"""The backends by name. One entry here is all that the command line, ``doctor`` and reports know of one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle


@dataclass(frozen=True)
class Backend:
    """One way to run a bundle.

    Attributes:
        name: as users give it.
        label: as reports call it.
        packages: what must be installed, and ``extra``, the extra of seqexport that brings it.
        home: ``module:function``; imported when a bundle is opened, and called with the bundle and the options given.
        options: the options that the function takes, by name.
    """

    name: str
    label: str
    packages: tuple[str, ...]
    extra: str
    home: str
    options: frozenset[str] = frozenset()

    def open(self, bundle: Bundle, **options: Any) -> Runner:
        """Open a bundle; an option of None is one that was not given.

        Raises:
            UserError: an option is another backend's, or this one is not to be had here.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if foreign := sorted(given.keys() - self.options):
            takes = ", ".join(f"`{name}`" for name in sorted(self.options)) or "none"
            raise UserError(f"`{foreign[0]}`: backend {self.name!r} does not take it; its options: {takes}")
        module, _, function = self.home.partition(":")
        try:
            opener = getattr(importlib.import_module(module), function)
        except ImportError as error:
            raise UserError(
                f"the backend {self.name!r} needs {error.name}: pip install 'seqexport[{self.extra}]'"
            ) from error
        runner: Runner = opener(bundle, **given)
        return runner


TORCH = Backend(
    "torch",
    "PyTorch",
    ("torch", "transformers"),
    "export",
    "seqexport.runtimes.pytorch.runner:TorchRunner",
    frozenset({"device", "threads", "source", "trust_remote_code"}),
)
ORT = Backend(
    "ort",
    "ONNX Runtime",
    ("onnxruntime",),
    "ort",
    "seqexport.runtimes.ort.runner:OrtRunner",
    frozenset({"device", "threads", "plugins"}),
)
TRT = Backend(
    "trt",
    "TensorRT",
    ("tensorrt", "polygraphy", "cuda-bindings"),
    "trt",
    "seqexport.runtimes.trt.runner:open_trt",
)
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (TORCH, ORT, TRT)}


def backend_named(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: there is none.
    """
    if name not in BACKENDS:
        raise UserError(f"`backend` {name!r}: expected one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def open_runner(backend: str, bundle: Bundle, **options: Any) -> Runner:
    """Open a bundle on a backend, with options of that backend.

    Raises:
        UserError: the backend is unknown, does not take an option, or is not to be had here.
    """
    return backend_named(backend).open(bundle, **options)
