"""What computes our ops in ONNX Runtime: the compiled library where it can be used, else the ops' function bodies.

ONNX Runtime inlines a model's function only where no kernel of that name is registered, with an overload name or
without, from 1.18 to 1.32; registering the library is therefore all it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqexport.plugins import library

if TYPE_CHECKING:
    import onnxruntime as ort


NAME = library.FILES["onnxruntime"]


@dataclass(frozen=True)
class OpsLibrary:
    """The library of our ops, or why it is not used.

    Attributes:
        path: the library's file; None where the function bodies run.
        version: of seqexport that built it.
        why_not: why the function bodies run; None where the library does.
        writes_caches_in_place: whether a key/value cache's past and present may be one memory.
    """

    path: Path | None
    version: str = ""
    why_not: str | None = None
    writes_caches_in_place: bool = False

    @classmethod
    def for_graph(cls, ops: Mapping[str, int], device: str, *, plugins: bool) -> OpsLibrary:
        """What runs a graph with ``ops`` (nodes of each) on ``cpu`` or ``cuda``.

        Raises:
            UserError: there is a library, and it is damaged or of another seqexport.
        """
        if not plugins:
            return cls(None, why_not="`plugins=False` was given")
        built = library.find("onnxruntime")
        if built is None:
            return cls(None, why_not=f"{NAME} is not built")
        if device == "cuda" and not built.built_for.get("cuda"):
            return cls(None, why_not=f"{NAME} was built without CUDA")
        if why_not := _load_error(built.path):
            return cls(None, why_not=f"{NAME} does not load here: {why_not}")
        return cls(built.path, built.seqexport, writes_caches_in_place="CausalAttention" in ops)

    def session_options(self) -> ort.SessionOptions:
        """New options, with the library's ops registered."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        if self.path:
            options.register_custom_ops_library(str(self.path))
        return options

    def __str__(self) -> str:
        if self.path:
            return f"ops by {NAME} {self.version}"
        return f"ops by function bodies ({self.why_not})"


def _load_error(path: Path) -> str | None:
    """What ONNX Runtime or the system's loader says against the library, as one line."""
    import onnxruntime as ort

    try:
        ort.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:
        return " ".join(str(error).split())
    return None
