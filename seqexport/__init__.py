"""Sequence models out of PyTorch, proved against the original.

    bundle = seqexport.export("state-spaces/mamba-130m-hf", "my-mamba")
    with seqexport.load(bundle) as model:
        for text in model.stream("The state of a"):
            print(text, end="")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqexport import ops
    from seqexport.exporter.api import compare, export, load, verify
    from seqexport.exporter.standins import mamba_ssm
    from seqexport.plugins.errors import UserError as Error
    from seqexport.runtimes.base import Session
    from seqexport.runtimes.bundle import Bundle, open_bundle
    from seqexport.runtimes.model import Model
    from seqexport.runtimes.sampling import Sampling

    __version__: str

_HOMES = {
    "Bundle": "seqexport.runtimes.bundle:Bundle",
    "Error": "seqexport.plugins.errors:UserError",
    "Model": "seqexport.runtimes.model:Model",
    "Sampling": "seqexport.runtimes.sampling:Sampling",
    "Session": "seqexport.runtimes.base:Session",
    "compare": "seqexport.exporter.api:compare",
    "export": "seqexport.exporter.api:export",
    "load": "seqexport.exporter.api:load",
    "mamba_ssm": "seqexport.exporter.standins:mamba_ssm",
    "open_bundle": "seqexport.runtimes.bundle:open_bundle",
    "verify": "seqexport.exporter.api:verify",
}

__all__ = [
    "Bundle",
    "Error",
    "Model",
    "Sampling",
    "Session",
    "__version__",
    "compare",
    "export",
    "load",
    "mamba_ssm",
    "open_bundle",
    "ops",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("seqexport.plugins.library").version()
    if name == "ops":
        return import_module("seqexport.ops")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
