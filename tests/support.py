"""What is supported, by the tests that passed: the cases, and their record."""

from __future__ import annotations

from dataclasses import dataclass

from tests.exporter.families import EXPORTED, HYBRIDS_AND_MIXTURES


@dataclass(frozen=True)
class Case:
    """A family in a dtype, and what runs its graph.

    Attributes:
        fused: the nodes of target ``tensorrt``, by their bodies.
        library: the compiled library of our ops runs what it has.
    """

    family: str
    dtype: str
    fused: bool = False
    library: bool = False

    def __str__(self) -> str:
        return "-".join([self.family, self.dtype, *["fused"] * self.fused, *["library"] * self.library])

    def record(self) -> dict[str, str]:
        return {"family": self.family, "dtype": self.dtype, "backend": "library" if self.library else "portable"}


def cases() -> list[Case]:
    found = []
    for family in EXPORTED:
        found += [Case(family, "float32"), Case(family, "float32", fused=True), Case(family, "float32", library=True)]
        if family in HYBRIDS_AND_MIXTURES:
            found += [Case(family, "float16"), Case(family, "float16", library=True)]
    return found
