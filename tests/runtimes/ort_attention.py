"""Which bundles this ONNX Runtime can run at all."""

from __future__ import annotations

import onnxruntime as ort

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import ATTENTION_SINCE
from tests.conftest import leave_out


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:2]))


def runnable(bundle: Bundle) -> Bundle:
    """The bundle, or the test is left out: its attention is ONNX Runtime's own, which this one lacks."""
    if bundle.manifest.caches_in_place and version(ort.__version__) < version(ATTENTION_SINCE):
        leave_out(
            f"tests of attention in target ort left out: ONNX Runtime {ort.__version__} has no GroupQueryAttention "
            f"with ragged chunks ({ATTENTION_SINCE} has)"
        )
    return bundle
