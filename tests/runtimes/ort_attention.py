"""Which bundles this ONNX Runtime can run at all."""

from __future__ import annotations

import onnxruntime as ort
from packaging.version import Version

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import ATTENTION_SINCE
from tests.conftest import leave_out


def runnable(bundle: Bundle) -> Bundle:
    """The bundle, or the test is left out: its attention is ONNX Runtime's own, which this one lacks."""
    if bundle.manifest.caches_in_place and Version(ort.__version__).release < Version(ATTENTION_SINCE).release:
        leave_out(
            f"tests of attention in target ort left out: ONNX Runtime {ort.__version__} has no GroupQueryAttention "
            f"with ragged chunks ({ATTENTION_SINCE} has)"
        )
    return bundle
