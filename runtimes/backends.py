"""The backends by name. One entry here is all that the command line, ``doctor`` and reports know of one.

A package of somebody else's adds its own as an entry point of the group ``seqexport.backends`` that is a ``Backend``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.module import ModuleRunner


@dataclass(frozen=True)
class Backend:
    """One way to run a bundle.

    Attributes:
        name: as users give it.
        label: as reports call it.
        packages: what must be installed; of several that bring the same, one, as in ``onnxruntime or onnxruntime-gpu``.
        extra: of seqexport, that brings them.
        home: ``module:function``; imported when a bundle is opened, and called with the bundle and the options given.
        options: the options that the function takes, by name.
        module_home: the same for bundles of other modules than language models; empty: it takes none.
        module_options: the options that it takes for those, where they are others.
        for_server: what else the function is given where a server opens a bundle.
    """

    name: str
    label: str
    packages: tuple[str, ...]
    extra: str
    home: str
    options: frozenset[str] = frozenset()
    module_home: str = ""
    module_options: frozenset[str] | None = None
    for_server: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def open(self, bundle: Bundle, **options: Any) -> Runner:
        """Open a language model's bundle; an option of None is one that was not given.

        Raises:
            UserError: an option is another backend's, or this one is not to be had here.
        """
        runner: Runner = self._opened(self.home, self, bundle, options)
        return runner

    def open_for_server(self, bundle: Bundle, **options: Any) -> Runner:
        """As ``open``, where other threads of the process have work between two calls."""
        runner: Runner = self._opened(self.home, self, bundle, options, self.for_server)
        return runner

    def open_module(self, bundle: Bundle, **options: Any) -> ModuleRunner:
        """The same for a bundle of any other module.

        Raises:
            UserError: as ``open``; or the backend takes language models alone.
        """
        if not self.module_home:
            raise UserError(f"`backend` {self.name!r} runs language models alone, and {bundle.path} is none")
        runner: ModuleRunner = self._opened(self.module_home, self.for_modules, bundle, options)
        return runner

    @property
    def for_modules(self) -> Backend:
        """With the options that it takes for bundles of other modules."""
        return self if self.module_options is None else replace(self, options=self.module_options)

    def _opened(
        self, home: str, taking: Backend, bundle: Bundle, options: Mapping[str, Any], others: Mapping[str, Any] = {}
    ) -> Any:
        given = {name: value for name, value in options.items() if value is not None}
        check_taken(given, [taking])
        _check_threads(given.get("threads", 1))
        module, _, function = home.partition(":")
        try:
            opener = getattr(importlib.import_module(module), function)
        except ImportError as error:
            raise UserError(
                f"the backend {self.name!r} needs {error.name}: pip install 'seqexport[{self.extra}]'"
            ) from error
        return opener(bundle, **given, **others)


TORCH = Backend(
    name="torch",
    label="PyTorch",
    packages=("torch", "transformers"),
    extra="export",
    home="seqexport.runtimes.pytorch.runner:TorchRunner",
    options=frozenset({"device", "threads", "original", "trust_remote_code"}),
    module_home="seqexport.runtimes.pytorch.module:TorchModule",
    module_options=frozenset({"device", "threads", "original", "weights"}),
)
ORT = Backend(
    name="ort",
    label="ONNX Runtime",
    packages=("onnxruntime or onnxruntime-gpu",),
    extra="ort",
    home="seqexport.runtimes.ort.runner:OrtRunner",
    options=frozenset({"device", "threads", "plugins"}),
    module_home="seqexport.runtimes.ort.module:OrtModule",
    for_server={"spins": False},
)
TRT = Backend(
    name="trt",
    label="TensorRT",
    packages=("tensorrt", "polygraphy", "cuda-bindings"),
    extra="trt",
    home="seqexport.runtimes.trt.runner:open_trt",
    module_home="seqexport.runtimes.trt.module:open_trt_module",
)

GROUP = "seqexport.backends"

MOST_THREADS = 1024
"""More than any machine's cores; each takes memory, and a process of very many hears no signal."""


def _check_threads(threads: int) -> None:
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"`threads` {threads}: expected 1 to {MOST_THREADS}")


@functools.cache
def backends() -> Mapping[str, Backend]:
    """Every backend by its name: ours, then those that other packages bring.

    Raises:
        UserError: a package's entry cannot be loaded, or is not a new backend.
    """
    found = {backend.name: backend for backend in (TORCH, ORT, TRT)}
    for entry in entry_points(group=GROUP):
        place = f"backend {entry.name!r} of another package ({entry.value})"
        try:
            brought = entry.load()
        except Exception as error:
            raise UserError(f"{place} cannot be loaded: {error}") from error
        if not isinstance(brought, Backend) or brought.name in found:
            raise UserError(f"{place}: expected a Backend with a name of its own")
        found[brought.name] = brought
    return found


def check_taken(options: Mapping[str, Any], chosen: Iterable[Backend]) -> None:
    """Refuse an option that none of the backends takes; None is one that was not given.

    Raises:
        UserError: naming it, and what they do take.
    """
    chosen = list(chosen)
    taken = frozenset[str]().union(*(backend.options for backend in chosen))
    foreign = sorted(name for name, value in options.items() if value is not None and name not in taken)
    if foreign:
        names = " and ".join(backend.name for backend in chosen)
        takes = ", ".join(f"`{name}`" for name in sorted(taken)) or "none"
        raise UserError(f"`{foreign[0]}`: not an option of backend {names}; those are: {takes}")


def backend_named(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: there is none.
    """
    if name not in backends():
        raise UserError(f"`backend` {name!r}: expected one of {', '.join(backends())}")
    return backends()[name]


def open_runner(backend: str, bundle: Bundle, **options: Any) -> Runner:
    """Open a bundle on a backend, with options of that backend.

    Raises:
        UserError: the backend is unknown, does not take an option, or is not to be had here.
    """
    return backend_named(backend).open(bundle, **options)
