"""The ops of the domain ``seqexport``. Importing this registers them as ``torch.ops.seqexport.<stem>``.

Every module of this package that has an ``OP`` is one. Needs torch; runtimes never import it.
"""

import importlib
import pkgutil

from seqexport.plugins.ops.op import DOMAIN, VERSION, Call, Op, register

_MODULES = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
OPS: dict[str, Op] = {module.OP.name: module.OP for module in _MODULES if hasattr(module, "OP")}

for _op in OPS.values():
    register(_op)

__all__ = ["DOMAIN", "OPS", "VERSION", "Call", "Op"]
