"""What a node of our ops takes on CUDA, in ONNX Runtime and bare: the slope between a short and a long chain of it.

Whole runs count, from an idle GPU to an idle GPU, median; nothing is copied to the host. A captured run leaves out what
the host does for each node. The bare kernels are always captured: Python would launch them slower than they run.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from seqexport.exporter.benchmarks.op_models import INPUTS, PARAMETERS, THREADS, Values, model_of, truth_of
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import Kernels
from seqexport.plugins.ops import OPS
from seqexport.runtimes.ort import cuda

KERNELS, STEPS, BODIES = (8, 40), (2, 10), (1, 3)
"""Nodes in the short and in the long chain: of one kernel each, of a body at one token, of a body at a prompt."""

REPEATS = 50
"""Of a chain of kernels."""

LIBRARY, CAPTURED, BARE = "library", "library, captured", "bare kernel"
BOUND = {torch.float32: 1e-5, torch.float16: 1e-2}
"""Most relative error of y against float64."""


@dataclass(frozen=True)
class Chain:
    """``run`` ends when the GPU is done; ``y`` is what the last node then gave."""

    run: Callable[[], Any]
    y: Callable[[], NDArray[Any]]


Make = Callable[[int], Chain]


def times(
    name: str, length: int, dtype: torch.dtype, rounds: int, device: str = "cuda"
) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of one node in each form, and why a form has none."""
    values, attributes = INPUTS[name](length, dtype)
    truth = truth_of(name, values, attributes)

    def session(finish: Callable[[ir.Model], None], **options: bool) -> Make:
        return lambda repeats: in_session(name, values, attributes, finish, repeats, device, **options)

    slow = (STEPS if length == 1 else BODIES, rounds)
    forms: dict[str, tuple[Make, tuple[int, int], int]] = {
        LIBRARY: (session(add_bodies, with_library=True), KERNELS, REPEATS),
        CAPTURED: (session(add_bodies, with_library=True, captured=True), KERNELS, REPEATS),
        BARE: (lambda repeats: bare(name, values, attributes, repeats), KERNELS, REPEATS),
        "function body": (session(add_bodies), *slow),
        "target ort": (session(lower_for_ort), *slow),
    }
    found, failed = dict[str, float](), dict[str, str]()
    for form, (new, lengths, repeats) in forms.items():
        make = functools.cache(new)
        try:
            check(make(1), truth, BOUND[dtype])
            found[form] = round(_slope(make, lengths, repeats) * 1e3, 5)
        except Exception as error:  # the other forms are timed all the same
            failed[form] = " ".join(f"{type(error).__name__}: {error}".split())
    return found, failed


def check(chain: Chain, truth: NDArray[Any], bound: float) -> None:
    """Raises ValueError: its answer is further than ``bound`` from the truth."""
    chain.run()
    error = np.linalg.norm(chain.y().astype(np.float64) - truth) / np.linalg.norm(truth)
    if not error < bound:
        raise ValueError(f"error {error:.1e} against float64, above {bound:.0e}; not timed")


def _slope(make: Make, lengths: tuple[int, int], repeats: int) -> float:
    """Seconds of one node more."""
    short, long = (_median(make(length), repeats) for length in lengths)
    if long <= short:
        raise ValueError(f"{lengths[1]} nodes took {long:.2e} s, {lengths[0]} took {short:.2e} s: too noisy to time")
    return (long - short) / (lengths[1] - lengths[0])


def _median(chain: Chain, repeats: int) -> float:
    """After as many runs as ONNX Runtime wants before it captures one, and one that replays it."""
    for _ in range(3 if repeats == REPEATS else 1):
        chain.run()
    found = []
    for _ in range(repeats):
        start = perf_counter()
        chain.run()
        found.append(perf_counter() - start)
    return statistics.median(found)


def in_session(
    name: str,
    values: Values,
    attributes: Mapping[str, Any],
    finish: Callable[[ir.Model], None],
    repeats: int,
    device: str,
    *,
    with_library: bool = False,
    captured: bool = False,
) -> Chain:
    """All inputs and outputs stay on the device; attention's caches are updated in place where the form does that."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, THREADS
    options.enable_mem_pattern = not captured  # the run that captures asks for the very memory that the one before had
    if with_library:
        options.register_custom_ops_library(str(library.require("onnxruntime").path))
    if with_library and device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider, given = "CPUExecutionProvider", dict[str, str]()
    if device == "cuda":
        provider, given = cuda.PROVIDER, cuda.OPTIONS | {"enable_cuda_graph": str(int(captured))}
    model = model_of(name, values, attributes, finish, repeats)
    session = ort.InferenceSession(model, options, providers=[(provider, given)], enable_fallback=0)
    if provider not in session.get_providers():
        raise RuntimeError(f"ONNX Runtime fell back to {', '.join(session.get_providers())}")
    binding = session.io_binding()

    def on_device(value: torch.Tensor) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(value.numpy().copy(), device, 0)

    held = {k: on_device(v) for k, v in values.items() if k not in PARAMETERS}
    (y, *presents), first = OPS[name].outputs, OPS[name].input_names[0]
    in_place = name == "CausalAttention" and (with_library or finish is lower_for_ort)
    results = {y: on_device(values[first])}
    for present in presents:
        past = present.replace("present", "past")
        results[present] = held[past] if in_place else on_device(values[past])
    for key, value in held.items():
        binding.bind_ortvalue_input(key, value)
    for output in session.get_outputs():
        binding.bind_ortvalue_output(output.name, results[output.name.partition(".")[0]])
    return Chain(lambda: session.run_with_iobinding(binding), results[y].numpy)


def bare(name: str, values: Values, attributes: Mapping[str, Any], repeats: int) -> Chain:
    """The kernels through their C interface, on the same values, in a CUDA graph."""
    op, kernels = OPS[name], Kernels(library.require("kernels").path)
    first, held = op.input_names[0], {k: v.cuda() for k, v in values.items()}
    rows = [held[first], torch.empty_like(held[first])]
    presents = [held[k.replace("present", "past")] for k in list(op.outputs)[1:]]
    if name != "CausalAttention":
        presents = [torch.empty_like(past) for past in presents]
    calls, workspaces = [], []
    for i in range(repeats):
        inputs = held | {first: rows[i % 2]}
        given = [inputs.get(k) for k in op.input_names]
        calls.append(kernels.params(op.stem, *given, rows[(i + 1) % 2], *presents, **attributes))
        if kernels.ops[op.stem].workspace:
            workspaces.append(torch.empty(kernels.workspace(op.stem, calls[-1]), dtype=torch.uint8, device="cuda"))
            calls[-1].workspace, calls[-1].workspace_bytes = workspaces[-1].data_ptr() or None, workspaces[-1].numel()

    def launch() -> None:
        for call in calls:
            kernels.call(op.stem, call, torch.cuda.current_stream().cuda_stream)

    graph = torch.cuda.CUDAGraph()
    launch()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        launch()

    def run(kept: object = (held, workspaces, presents)) -> None:
        graph.replay()
        torch.cuda.synchronize()

    return Chain(run, lambda: rows[repeats % 2].cpu().numpy())
