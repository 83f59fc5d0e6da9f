"""A short run of every kind of attack; ``python -m tests.attacks`` makes long ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.attacks import bundles, checkpoints, files
from tests.attacks.__main__ import save_session
from tests.attacks.attack import Attack, Case, target
from tests.attacks.run import Bases, attacked
from tests.conftest import Exported, Saved

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="attacks need forks and Linux' devices")
SECONDS = 4.0


@pytest.fixture(scope="module")
def session(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_session(exported("preset:mamba").path, tmp_path_factory.mktemp("session") / "talk.safetensors")


def effects(bases: Bases, modules: Sequence[str], root: Path) -> list[str]:
    tried = list(attacked(bases, modules, root, seconds=SECONDS, seed=0))
    assert tried
    return [line for line in tried if line]


def test_bundles(exported: Exported, session: Path, tmp_path: Path) -> None:
    made = tuple(exported(f"preset:{name}").path for name in ("mamba", "transformer"))
    assert effects(bundles.Bases(made, session), bundles.MODULES, tmp_path / "cases") == []


def test_checkpoints(checkpoint: Saved, tmp_path: Path) -> None:
    assert effects(checkpoints.Bases((checkpoint("llama"),)), checkpoints.MODULES, tmp_path / "cases") == []


def test_files(exported: Exported, checkpoint: Saved, session: Path, tmp_path: Path) -> None:
    bases = files.Bases(exported("preset:mamba").path, session, checkpoint("llama"))
    assert len(bases.cases()) >= 50
    assert effects(bases, files.MODULES, tmp_path / "cases") == []


NOTICED = {
    "raise": "says 'Traceback",
    "die": "ends with -6",
    "hang": "hangs",
    "compute": "ends with -24",
    "say nothing": "says nothing",
    "obey": "control characters",
    "tell": "tells what lies outside",
    "litter": "litter: ",
    "write": "wrote outside",
    "take": "says 'Traceback",
}


def test_harm_is_noticed(tmp_path: Path) -> None:
    with target("tests.attacks.harm", home=tmp_path) as child:
        for name, told in NOTICED.items():
            faults = child.faults(harm(name), Case(tmp_path / name.replace(" ", "-")))
            assert told in "; ".join(faults), name
        assert child.faults(harm("nothing"), Case(tmp_path / "nothing")) == []


def harm(name: str) -> Attack:
    return Attack(name, (name,), program="tests.attacks.harm:main", seconds=1)
