"""The long run, by hand: exports what is attacked, then attacks it; exit code 1 where an attack had an effect."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from seqexport.exporter.api import export, load
from tests.attacks import bundles, checkpoints, files
from tests.attacks.run import Bases, attacked
from tests.conftest import CHECKPOINTS
from tests.exporter.families import save


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("kind", choices=("bundles", "checkpoints", "files"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    modules = {"bundles": bundles, "checkpoints": checkpoints, "files": files}[asked.kind].MODULES
    with tempfile.TemporaryDirectory() as folder:
        bases, tried, bad = _bases(asked.kind, Path(folder)), 0, 0
        for line in attacked(bases, modules, Path(folder) / "cases", seconds=asked.seconds, seed=asked.seed):
            tried, bad = tried + 1, bad + bool(line)
            if line:
                print(line, flush=True)
    print(f"{tried} attacks, {bad} had an effect")
    sys.exit(1 if bad else 0)


def _bases(kind: str, root: Path) -> Bases:
    saved = [save(CHECKPOINTS[name], root / name) for name in (() if kind == "bundles" else ("llama", "mamba"))]
    if kind == "checkpoints":
        return checkpoints.Bases(tuple(saved))
    made = [export(f"preset:{name}", root / f"{name}-bundle", dtype="fp32").path for name in ("mamba", "transformer")]
    session = save_session(made[0], root / "talk.safetensors")
    if kind == "bundles":
        return bundles.Bases(tuple(made), session)
    return files.Bases(made[0], session, saved[0])


def save_session(bundle: Path, file: Path) -> Path:
    """A session of a bundle after some text."""
    with load(bundle, threads=1) as model, model.session() as session:
        list(model.resume(session, "def ", max_new_tokens=2))
        session.save(file)
    return file


if __name__ == "__main__":
    main()
