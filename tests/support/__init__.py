"""What is supported, by the tests that passed: the cases of families, dtypes and backends, and their records.

``python -m tests.support --help`` lists the commands that make them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.exporter.families import EXPORTED

PROPERTY = "support"
"""The property of a test that says which case it is."""

BACKENDS = {"pytorch": "PyTorch", "portable": "ONNX Runtime", "library": "with our library", "tensorrt": "TensorRT"}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


IN_16_BITS = ("mamba2", "nemotron_h", "falcon_h1", "granite_hybrid", "jamba", "lfm2_moe", "mixtral")
"""One family of each kind of layer, router and multiplier: what short runs have in float16."""


@dataclass(frozen=True)
class Case:
    """A family in a dtype, on a backend; ``fused`` is the graph of target ``tensorrt`` by its bodies."""

    family: str
    dtype: str
    backend: str

    def __str__(self) -> str:
        return f"{self.family}-{self.dtype}-{self.backend}"

    @property
    def as_property(self) -> list[str]:
        return [self.family, self.dtype, self.backend]


def cases(*, every: bool) -> list[Case]:
    """All cases, or those of short runs."""
    found = []
    for family in EXPORTED:
        found += [Case(family, "float32", backend) for backend in ("pytorch", "portable", "fused", "library")]
        if every or family in IN_16_BITS:
            found += [Case(family, "float16", backend) for backend in ("pytorch", "portable", "library")]
        if every:
            found.append(Case(family, "bfloat16", "pytorch"))
    return found


def digest(family: str) -> str:
    """Of the tiny model that is tested, so that a record of another one is known to be old."""
    model = EXPORTED[family]
    return hashlib.sha256(repr((model.kind, sorted(model.settings.items()))).encode()).hexdigest()[:8]
