"""Recorded references that tests change, and what a verification by them says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file, save

from seqexport.runtimes.bundle import REFERENCE, Bundle
from seqexport.runtimes.comparison.reference import (
    read_reference,
)
from seqexport.runtimes.comparison.verify import Check, verify
from seqexport.runtimes.ort.runner import OrtRunner
from tests.sealing import reseal


def checks_of(bundle: Bundle) -> list[Check]:
    with OrtRunner(bundle, threads=1) as runner:
        return list(verify(runner, read_reference(bundle)))


def rewrite_reference(bundle: Bundle, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Bundle:
    """Change the tensors or the errors of a recorded reference."""
    file = bundle.path / REFERENCE
    with safe_open(file, "numpy") as opened:
        errors = json.loads(opened.metadata()["torch_errors"])
    tensors = load_file(file)
    change(tensors, errors)
    file.write_bytes(save(tensors, metadata={"torch_errors": json.dumps(errors)}))
    return reseal(bundle.path)
