"""Attacks one after the other until the time is up, and what each that had an effect was."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from tests.attacks.attack import Attack, Case, target


class Bases(Protocol):
    """What makes attacks."""

    def attack(self, case: Case, random: Random) -> Attack: ...


def attacked(bases: Bases, modules: Sequence[str], root: Path, *, seconds: float, seed: int) -> Iterator[str]:
    """Run attacks on what ``bases`` has for so many seconds, beside importing.

    Args:
        root: an empty folder.
        seed: of the first; attack ``n`` is that of seed ``seed + n``, so that one can be run again alone.

    Returns:
        A line for each attack: "" where nothing came of it, and what was wrong where something did.
    """
    with target(*modules, home=root) as child:
        deadline, number = None, seed
        while deadline is None or time.monotonic() < deadline:
            case = Case(root / str(number))
            attack = bases.attack(case, Random(number))
            faults = child.faults(attack, case)
            deadline = deadline or time.monotonic() + seconds  # the first has waited for the imports
            yield (
                f"seed {number}, {attack.name}, {' '.join(attack.arguments)[:80]}: {'; '.join(faults)}"
                if faults
                else ""
            )
            shutil.rmtree(case.root, ignore_errors=True)
            number += 1
