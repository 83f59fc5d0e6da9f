"""What a bundle is said to need on a board, beside what was measured; and how boards are named."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import msgspec
import onnx
import pytest

import seqexport.exporter.benchmarks as benchmarks
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.fit.advice import fit_of
from seqexport.runtimes.fit.boards import GIB, Board, boards, find_board
from seqexport.runtimes.fit.estimate import Fit, estimate, runtime_on, sizes_of
from seqexport.runtimes.fit.weights import Widths, shapes, widths
from seqexport.runtimes.protobuf import NotWhole, mapped
from tests.conftest import Exported
from tests.exporter.families import of, save

DTYPES = {"fp32": "float32", "fp16": "float16"}
MIB = 1 << 20


def needed(fit: Fit, *without: str) -> int:
    return sum(part.bytes for part in fit.parts if "run" in part.phases and part.name not in without)


def part(fit: Fit, name: str) -> int:
    return next(part.bytes for part in fit.parts if part.name.startswith(name))


def test_every_board_is_whole() -> None:
    assert len(boards()) > 25
    for board in boards().values():
        assert 0 < board.system_gib < board.memory_gib / 2 and board.bandwidth_gb_s > 1
        assert board.source.startswith("https://") and len(board.date) == 10
        assert board.runs_tensorrt or board.shared


@pytest.mark.parametrize("name", ["orin-nano-8gb", "Orin Nano 8GB", "Jetson Orin_Nano  8GB", "nvidia-orin-nano-8gb"])
def test_a_board_however_it_is_spelt(name: str) -> None:
    assert find_board(name).title == "Jetson Orin Nano 8GB"


@pytest.mark.parametrize(
    ("name", "told"),
    [("orin-nano-8g", "orin-nano-8gb"), ("rtx-4009", "rtx-4090"), ("orin", "orin-nx-16gb"), ("toaster", "known are")],
)
def test_a_board_that_is_not_known_names_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find_board(name)


@pytest.mark.parametrize("name", ["mamba", "transformer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_engines_on_an_h200_took_what_is_estimated(name: str, dtype: str, exported: Exported) -> None:
    """Of what an engine takes on the device beside the runtime itself, within 15 %."""
    recorded = json.loads(Path(benchmarks.__file__).with_name("gpu_h200.json").read_text())
    rows = next(step["rows"] for step in recorded["steps"] if step["step"] == "engines")
    points = next(row["detail"]["points"] for row in rows if row["name"] == f"{name}-{dtype}: bench")
    bundle = exported(f"preset:{name}", target="tensorrt", dtype=DTYPES[dtype])
    for point in points:
        sizes = sizes_of(bundle, "TensorRT", point["batch"], point["length"])
        fit = estimate(bundle, find_board("h200"), dataclasses.replace(sizes, chunk=2048))  # as it was built
        assert needed(fit, "the runtime itself") == pytest.approx(point["device_bytes"], rel=0.15)


MEASURE = """
import sys
import numpy as np
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.ort.runner import OrtRunner
length = int(sys.argv[2])
with OrtRunner(open_bundle(sys.argv[1]), threads=1, plugins=False) as runner:
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
    with runner.session(1, length + 1 if runner.manifest.capacity else None) as session:
        session.prefill(np.arange(length)[None] % 200)
        session.step(np.array([5]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mamba of 31 M parameters: enough to be seen beside the runtime."""
    build = of("Mamba", vocab_size=16384, hidden_size=768, num_hidden_layers=4, state_size=16, expand=2)
    return save(build, tmp_path_factory.mktemp("wide") / "mamba")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("length", [64, 512])
def test_a_process_of_onnx_runtime_takes_what_is_estimated(wide: Path, length: int, tmp_path: Path) -> None:
    """Within 25 % of its peak while it runs; models of 130 M parameters came within 5 %."""
    from seqexport.exporter.pipeline import ExportOptions, export

    options = ExportOptions(model=str(wide), dtype="float32", target="ort")
    bundle = export(options, tmp_path / "bundle", lambda stage: nullcontext())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, bundle.path, str(length)], capture_output=True, text=True, check=True
    )
    board = find_board("raspberry-pi-5-8gb")
    fit = estimate(bundle, board, sizes_of(bundle, "ONNX Runtime", 1, length))
    assert fit.needed("run") == pytest.approx(int(done.stdout) * 1024, rel=0.25)
    assert part(fit, "weights") > 100 * MIB


def test_shapes_are_those_of_the_graph(exported: Exported, tmp_path: Path) -> None:
    bundle = exported("preset:transformer", target="portable", dtype="float32")
    graph = onnx.load(bundle.model, load_external_data=False).graph
    with mapped(bundle.model) as data:
        assert list(shapes(data)) == [tuple(tensor.dims) for tensor in graph.initializer]
        with pytest.raises(NotWhole):
            list(shapes(data[:-9]))
    assert widths(bundle) == Widths(hidden=128, widest=176, tables=1)


def test_what_changes_the_memory(exported: Exported) -> None:
    bundle, board = exported("preset:transformer", target="tensorrt", dtype="float32"), find_board("orin-nano-8gb")
    one, two = (fit_of(bundle, board, batch, 4096) for batch in (1, 2))
    assert part(two, "caches") == 2 * part(one, "caches") == 2 * bundle.manifest.state_bytes(1, 4096)
    assert part(fit_of(bundle, board, 1, 1024), "caches") * 4 == part(one, "caches")
    assert part(one, "scratch memory") == 32 * MIB
    assert one.needed("build") > one.needed("load") and one.advice == ()
    floor = (one.weights + part(one, "caches")) / 102e9
    assert one.floor_seconds == pytest.approx(floor)


def test_what_runs_it(exported: Exported) -> None:
    for_ort = exported("preset:mamba", target="ort", dtype="float32")
    for_trt = exported("preset:mamba", target="tensorrt", dtype="float32")
    assert runtime_on(for_trt, find_board("rtx-4090")) == "TensorRT"
    assert runtime_on(for_ort, find_board("rtx-4090")) == "ONNX Runtime"
    assert runtime_on(for_trt, find_board("jetson-nano-4gb")) == "ONNX Runtime"
    (advice,) = fit_of(for_ort, find_board("l4")).advice
    assert "--target tensorrt" in advice
    experts = exported("mixtral", target="tensorrt")
    assert fit_of(experts, find_board("l4"), 1, 64).floor_seconds is None


def with_memory(board: Board, bytes_free: float) -> Board:
    return msgspec.structs.replace(board, memory_gib=board.system_gib + bytes_free / GIB)


def test_advice_names_what_fits(exported: Exported) -> None:
    bundle, board = exported("preset:transformer", target="tensorrt", dtype="float32"), find_board("orin-nano-4gb")
    whole = fit_of(bundle, board, 64)
    tight = with_memory(board, whole.needed("run") - part(whole, "caches") / 2)
    fit = fit_of(bundle, tight, 64)
    assert not fit.fits("run")
    told = "\n".join(fit.advice)
    for expected in ("--maxShapes input_ids:64x256", "--len 4,096 fits", "--batch 1", "--dtype fp16", "orin-nano-4gb"):
        assert expected in told
    assert fit_of(bundle, tight, 64, 4096).fits("run")


def test_advice_where_it_runs_but_cannot_be_built(exported: Exported) -> None:
    bundle, board = exported("preset:mamba", target="tensorrt", dtype="float32"), find_board("orin-nano-8gb")
    whole = fit_of(bundle, board)
    fit = fit_of(bundle, with_memory(board, whole.needed("build") - MIB))
    assert fit.fits("run") and fit.fits("load") and not fit.fits("build")
    swap, elsewhere, smaller = fit.advice
    assert swap.startswith("swap of 2 GiB") and "agx-orin-64gb" in elsewhere and "fits" in smaller


def test_more_tokens_than_the_bundle_holds(exported: Exported) -> None:
    bundle: Bundle = exported("preset:transformer", target="ort", dtype="float32")
    with pytest.raises(UserError, match="`len` 8193: the bundle was exported for at most 8192"):
        fit_of(bundle, find_board("l4"), 1, 8193)
