"""The main job, on a CPU, with the models that ship inside: export, verify, generate, compare.

python examples/demo.py        (or: make demo)
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from seqexport.runtimes.ort.runner import ATTENTION_SINCE

FOLDER = Path("demo")
REPORT = FOLDER / "report.html"
BUNDLES = {arch: FOLDER / arch for arch in ("mamba", "mamba2", "transformer", "hybrid")}


def main() -> None:
    # what target ort needs; the last ONNX Runtime for Python 3.10 is older
    target = "ort" if Version(version("onnxruntime")) >= Version(ATTENTION_SINCE) else "portable"
    for arch, bundle in BUNDLES.items():
        seqexport("onnx", "--arch", arch, "--target", target, "--dtype", "fp32", "-o", bundle, "--force")
    for bundle in BUNDLES.values():
        seqexport("verify", bundle)
    for bundle in BUNDLES.values():
        prompt = ["--prompt", "Return the ", "--temperature", "0.6", "--seed", "1"]
        seqexport("generate", bundle, *prompt, "--max-new-tokens", "200")
    seqexport("compare", *BUNDLES.values(), "--quick", "-o", REPORT)
    print(f"\nThe comparison is at {REPORT.resolve()}")


def seqexport(*arguments: object) -> None:
    """Show a command as one would type it, then run it."""
    words = [str(argument) for argument in arguments]
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"\n$ seqexport {shown}", flush=True)
    command = [sys.executable, "-m", "seqexport", *words]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
