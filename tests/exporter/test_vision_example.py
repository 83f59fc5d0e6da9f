"""examples/vision, at sizes that take no time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from seqexport.runtimes.bundle import open_bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "vision"


def test_it_exports_verifies_times_and_draws_both(tmp_path: Path) -> None:
    models = (EXAMPLE / "models.py").read_text()
    (tmp_path / "models.py").write_text(models.replace("DEPTH, CLASSES = 8, 128, 6,", "DEPTH, CLASSES = 8, 128, 1,"))
    shutil.copy(EXAMPLE / "resolution.py", tmp_path)
    command = [sys.executable, tmp_path / "resolution.py", "--sides", "16", "-o", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("verify in ONNX Runtime") == 2 and "not allowed" not in done.stdout
    assert re.search(r"^\| 16 × 16 \|( [\d.,]+.(s|ms|µs) \| [\d.,]+.[KMG]?i?B \|){2}$", done.stdout, re.MULTILINE)
    sizes = [open_bundle(tmp_path / name).manifest.source.parameters for name in ("Mamba", "ViT")]
    assert max(sizes) < 1.03 * min(sizes)
    assert open_bundle(tmp_path / "Mamba").manifest.ops == {"SelectiveScan": 1}
    picture = ElementTree.parse(tmp_path / "resolution.svg").getroot()
    assert picture.tag.endswith("}svg") and len(picture.findall("{*}svg")) == 2
    assert {"Mamba", "ViT", "Memory beside the weights"} <= {each.text for each in picture.findall(".//{*}text")}


def test_the_readmes_picture_is_its_table() -> None:
    rows = re.findall(r"^\| (\d+) × \1 \| (\d+) \|", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert [int(patches) for _, patches in rows] == [(int(side) // 8) ** 2 for side, _ in rows]
    assert (EXAMPLE / "resolution.svg").is_file()
