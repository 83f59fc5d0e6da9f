"""What a model calls while it is traced, and what is put in its place: a file for each, found because it is here.

A file registers what it knows of a kernel. Where we have its op, a function that the model's modules look up by name is
replaced, and its states become inputs and outputs of the graph::

    @replaces("mamba_selective_scan")
    def mamba_selective_scan(states, hidden_states, dt, ...):
        past = states.past(states.layer, "recurrent_state", ("batch", channels, N), hidden_states, torch.float32)
        ...

Where we have none, ``missing("mamba2_chunk_scan", op="SsdScan (Mamba-2)")`` refuses the model by that name. What is no
such function (transformers' attention interface) has a context manager: ``register(name, patch)``.

A patch of your own, in your own package, is made by the same calls before the export::

    from seqexport.exporter.patches import replaces, unregister

    @replaces("my_scan")
    def my_scan(states, x, decay): ...
"""

import importlib
import pkgutil

from seqexport.exporter.patches.registry import (
    Patch,
    missing,
    missing_ops,
    patched,
    register,
    replaces,
    unregister,
)

__all__ = ["Patch", "missing", "missing_ops", "patched", "register", "replaces", "unregister"]

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")
