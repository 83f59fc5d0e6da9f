"""Exports and verifies a vision Mamba and a ViT of equal size, and draws their time and memory against resolution.

python examples/vision/resolution.py [--sides 128,256,384,512,768] [-o vision]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import seqexport
from seqexport.runtimes import units
from seqexport.runtimes.comparison.plots import Chart, Curve, write_charts

FACTORIES = {"Mamba": "models:scanner", "ViT": "models:attender"}
BUDGET = "10"
"""Seconds for the calls of one size; the first is not counted, and one is at least."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="128,256,384,512,768", help="pixels of a side, multiples of 8")
    parser.add_argument("-o", "--output", type=Path, default=Path("vision"), help="the folder of bundles and picture")
    given = parser.parse_args()
    sides, folder = [int(side) for side in given.sides.split(",")], given.output.resolve()
    for name, factory in FACTORIES.items():
        run("onnx", "--module", factory, "--input", "image=1x3x64x48", "--dynamic", "image=batch,3,height,width",
            "--target", "ort", "-o", folder / name, "--force")  # fmt: skip
    points = {name: [measured(folder / name, side) for side in sides] for name in FACTORIES}
    print(table(points, sides))
    draw(points, sides, folder / "resolution.svg")
    print(f"\nThe picture is at {folder / 'resolution.svg'}")


def measured(bundle: Path, side: int) -> dict[str, Any]:
    """One size in a process of its own, so that memory which others have left does not count."""
    file = bundle.with_name(f"{bundle.name}-{side}.json")
    sizes = ["--axis", "batch=1", "--axis", f"height={side}", "--axis", f"width={side}"]
    run("bench", bundle, *sizes, "--repeats", "3", "--budget", BUDGET, "-o", file)
    result = json.loads(file.read_text())
    return {**result["points"][0], "description": result["description"]}


def run(*arguments: object) -> None:
    """Show a command as one would type it here, then run it where the models are."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ seqexport {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "seqexport", *words]
    if code := subprocess.run(command, cwd=Path(__file__).parent, check=False).returncode:
        sys.exit(code)


def table(points: dict[str, list[dict[str, Any]]], sides: list[int]) -> str:
    """In Markdown, with what ran the ops."""
    names = list(points)
    lines = [
        f"\n{points[names[0]][0]['description']}\n",
        f"| image | {' | '.join(f'{name}: time | memory' for name in names)} |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for index, side in enumerate(sides):
        found = [points[name][index] for name in names]
        cells = (f"{units.seconds(each['seconds'])} | {units.size(each['host_bytes'])}" for each in found)
        lines.append(f"| {side} × {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points: dict[str, list[dict[str, Any]]], sides: list[int], file: Path) -> None:
    def curves(value: str) -> list[Curve]:
        return [Curve(name, sides, [each[value] for each in found]) for name, found in points.items()]

    time = Chart("Time of an image", curves("seconds"), units.seconds)
    memory = Chart("Memory beside the weights", curves("host_bytes"), units.size, base=2)
    write_charts(file, "pixels of a side", [time, memory])


if __name__ == "__main__":
    try:
        main()
    except seqexport.Error as error:
        sys.exit(f"Error: {error}")
