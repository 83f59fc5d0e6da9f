"""Checks a built wheel as a user meets it: installed into an empty venv, without torch.

python tests/check_wheel.py dist/seqexport-*.whl
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHIPPED = (
    "*.py",
    "*.cu",
    "*.cuh",
    "*.h",
    "*.hpp",
    "*.html",
    "*.cpp",
    "*.cmake",
    "*.in",
    "*.j2",
    "*.safetensors",
    "*.json",
    "*.txt",
    "py.typed",
)


def main(wheel: Path) -> None:
    _holds_every_file(wheel)
    with tempfile.TemporaryDirectory() as folder:
        _runs_in_an_empty_venv(wheel, Path(folder))
    print(f"{wheel.name}: holds every file, installs into an empty venv, and runs there without torch")


def _holds_every_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ("seqexport", "exporter", "plugins", "runtimes"):
        home = ROOT / top if top == "seqexport" else ROOT
        expected = {f for pattern in SHIPPED for f in (ROOT / top).rglob(pattern) if "__pycache__" not in f.parts}
        missing = sorted(str(f) for f in expected if f"seqexport/{f.relative_to(home).as_posix()}" not in names)
        if missing:
            sys.exit(f"{wheel.name} lacks {', '.join(missing)}")


def _runs_in_an_empty_venv(wheel: Path, folder: Path) -> None:
    venv.create(folder, with_pip=True)
    run = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / ".constraints.txt",
        wheel,
    ]
    subprocess.run(run, check=True)
    python, seqexport = folder / "bin" / "python", folder / "bin" / "seqexport"
    names = "import seqexport; seqexport.export, seqexport.load, seqexport.Model"
    subprocess.run([python, "-c", names], check=True, cwd=folder)  # not here, where the checkout's own would be found
    for arguments in (["--help"], ["onnx", "--help"], ["doctor"], ["plugins", "list"]):
        subprocess.run([seqexport, *arguments], check=True, stdout=subprocess.DEVNULL)
    result = subprocess.run([seqexport, "onnx"], capture_output=True, text=True, check=False)
    if result.returncode != 2 or "seqexport[export]" not in result.stderr:
        sys.exit(f"without torch, `seqexport onnx` said: {result.stderr!r} (exit {result.returncode})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
