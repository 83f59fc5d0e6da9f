"""Which tensors of a bundle's graph say something else of a sequence in a batch than of the sequence alone.

    python -m tests.tensorrt.rows BUNDLE [--length 7] [--past 7] [--ends] [--preview -fasterDynamicShapes0805]

For a GPU on which ``seqexport verify`` finds batches wrong: builds an engine whose outputs are all tensors of the
graph, feeds two sequences and then the second alone, and lists the tensors in the graph's order. More outputs make
another engine, which may be right where the bundle's is wrong: ``--ends`` looks at the bundle's own outputs alone.
Needs no PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.engine import BuildOptions, _Build, _Tools, profiles_of
from seqexport.runtimes.trt.graph import drops_bodies, graph_bytes

Array = NDArray[Any]
SAME = {np.dtype(np.float32): 1e-4, np.dtype(np.float16): 2e-2}
"""Of the tensor's largest value; whole numbers are equal."""


class Silent:
    """A progress that nobody follows."""

    def phase_start(self, name: str, parent: str | None, steps: int) -> None: ...

    def step(self, name: str, done: int) -> None: ...

    def phase_finish(self, name: str) -> None: ...

    def warn(self, message: str) -> None: ...


def built(bundle: Bundle, options: BuildOptions, *, ends: bool) -> tuple[Any, list[str]]:
    """The engine, and its outputs in the graph's order."""
    tools = _Tools.here_and_now()
    drop = drops_bodies(bundle, plugins=True, major=versions.major(tools.trt))
    ours = versions.load_plugins(tools.trt)
    build = _Build(tools, options, bundle.model, graph_bytes(bundle.model, drop=drop))
    if ends:
        names = [spec.name for spec in bundle.manifest.outputs]
    else:
        names = [tensor.name for tensor in _tensors(tools.trt, build.network)]
    plan = build.plan(profiles_of(bundle, options.shapes), ours, Silent())
    return tools.trt.Runtime(tools.logger).deserialize_cuda_engine(plan), names


def _tensors(trt: Any, network: Any) -> Iterator[Any]:
    """Those that can be outputs, which they are then."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for tensor in (layer.get_output(i) for i in range(layer.num_outputs)):
            if tensor.is_shape_tensor or tensor.dtype == trt.bool or len(tensor.shape) < 2:
                continue
            if layer.type == trt.LayerType.CONSTANT:
                continue
            if not tensor.is_network_output:
                network.mark_output(tensor)
            yield tensor


def feeds(bundle: Bundle, engine: Any, trt: Any, batch: int, length: int, past: int) -> dict[str, Array]:
    """Two sequences, or the second alone, after ``past`` tokens, of which states of small numbers are made up."""
    random = np.random.default_rng(0)
    sizes = {"batch": 2, "seq": length, "max_len": bundle.manifest.capacity}
    given = {
        "input_ids": random.integers(0, bundle.manifest.vocab_size, (2, length)),
        "seq_lens": np.full(2, length),
        "past_lens": np.full(2, past),
    }
    found: dict[str, Array] = {}
    for spec in bundle.manifest.inputs:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        state = random.standard_normal(shape) / 4 if past else np.zeros(shape)
        dtype = trt.nptype(engine.get_tensor_dtype(spec.name))
        found[spec.name] = np.ascontiguousarray(given.get(spec.name, state)[2 - batch :], dtype)
    return found


def second(together: Array, alone: Array) -> Array | None:
    """What of ``together`` is of the second sequence; None where no axis is twice as long."""
    axes = [axis for axis, (n, m) in enumerate(zip(together.shape, alone.shape, strict=True)) if n == 2 * m]
    return np.split(together, 2, axes[0])[1] if axes else None


def differs(mine: Array, alone: Array) -> float:
    """The largest difference, in shares of the largest value."""
    mine, alone = (np.nan_to_num(part.astype(np.float64), nan=1e30) for part in (mine, alone))
    return float(np.abs(mine - alone).max() / max(np.abs(alone).max(), 1e-30))


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--length", default=7, show_default=True, help="Tokens of a sequence.")
@click.option("--past", default=0, show_default=True, help="Tokens before them.")
@click.option("--ends", is_flag=True, help="Only what the bundle itself gives: logits and states.")
@click.option("--tactic-sources", help="As for `seqexport build`.")
@click.option("--preview", multiple=True, help="As for `seqexport build`.")
def main(
    folder: Path, length: int, past: int, ends: bool, tactic_sources: str | None, preview: tuple[str, ...]
) -> None:
    from polygraphy.backend.trt import TrtRunner

    bundle, trt = open_bundle(folder), versions.load_tensorrt()
    sources = None if tactic_sources is None else tuple(filter(lambda name: name != "none", [tactic_sources]))
    engine, names = built(bundle, BuildOptions(tactic_sources=sources, preview=preview), ends=ends)
    with TrtRunner(engine, optimization_profile=0) as runner:
        both, alone = (
            {
                name: np.array(value)
                for name, value in runner.infer(feeds(bundle, engine, trt, batch, length, past)).items()
            }
            for batch in (2, 1)
        )
    wrong = 0
    for name in names:
        mine = second(both[name], alone[name])
        error = 0.0 if mine is None else differs(mine, alone[name])
        bad = error > SAME.get(alone[name].dtype, 0.0)
        wrong += bad
        shown = "of no sequence" if mine is None else f"{error:.1e}"
        print(f"{'✗' if bad else ' '} {name} {list(both[name].shape)} {alone[name].dtype} {shown}")
    print(f"{wrong} of {len(names)} tensors differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    run(main)
