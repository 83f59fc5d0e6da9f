"""Our ops in ONNX Runtime: the compiled library, the function bodies, and what the target ``ort`` lowers them to.

    python -m seqexport.exporter.benchmarks.op_libraries [--device cpu] [--rounds 5] [-o op_libraries.json]

Each op is a model of one node, batch 1, at the sizes of a model of 130 M parameters. Every form is held to the op's
reference in float64 before it is timed; the forms take turns, and the least time of each counts. Where another form is
faster than the library, the target ``ort`` should use that: register.cpp in plugins/onnxruntime, exporter/passes/ort.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from torch import Tensor

from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.plugins import library
from seqexport.plugins.ops import DOMAIN, OPS, VERSION

THREADS, OPSET, PROMPT = 2, 20, 1024
D, N, K, HEADS, HEAD_DIM = 1536, 16, 4, 12, 64
WANTED = {"SelectiveScan": {"function body": 8.0, "transformers, eager": 25.0}, "CausalAttention": {"target ort": 1.0}}
"""How many times faster than another form the library shall be at a prompt."""

PARAMETERS = ("A", "D", "dt_bias", "weight", "bias")
TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.int32: TensorProto.INT32}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Values = dict[str, Tensor]
Run = Callable[[], Any]


@click.command()
@click.option("--device", type=click.Choice(list(PROVIDERS)), default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Turns that each form takes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("op_libraries.json"), show_default=True)
def main(device: str, rounds: int, output: Path) -> None:
    from seqexport.runtimes.machine import this_machine

    torch.set_num_threads(THREADS)
    rows = [
        {"op": name, "tokens": length, "dtype": str(dtype).removeprefix("torch."), "ms": times}
        for dtype in (torch.float32, torch.float16)
        for length in (PROMPT, 1)
        for name in OPS
        for times in [_times(name, length, dtype, device, rounds)]
    ]
    _print(rows, device)
    setting = {"device": device, "batch": 1, "threads": THREADS, "D": D, "N": N, "K": K, "heads": HEADS,
               "head_dim": HEAD_DIM, "cached tokens at decode": PROMPT, "rounds": rounds}  # fmt: skip
    record = {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "wanted": WANTED, "results": rows}
    output.write_text(json.dumps(record, indent=2) + "\n")


def _times(name: str, length: int, dtype: torch.dtype, device: str, rounds: int) -> dict[str, float]:
    """The least milliseconds of each form that there is."""
    values, attributes = INPUTS[name](length, dtype)
    wide = {k: v.double() if v.is_floating_point() else v for k, v in values.items()}
    given = {k: wide.get(k) for k in OPS[name].input_names}
    truth = OPS[name].reference(**given, **attributes)[0].numpy()
    forms: dict[str, Run] = {
        "library": _session(name, values, attributes, device, add_bodies, with_library=True),
        "function body": _session(name, values, attributes, device, add_bodies),
        "target ort": _session(name, values, attributes, device, lower_for_ort),
    }
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for form, run in forms.items():
        error = np.linalg.norm(run()[0].astype(np.float64) - truth) / np.linalg.norm(truth)
        assert error < bound, f"{name}, {form}: error {error:.1e} against float64"
    if name == "SelectiveScan" and (length, dtype, device) == (PROMPT, torch.float32, "cpu"):
        forms["transformers, eager"] = _eager_scan(values)
    least = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for form, run in forms.items():
            start = perf_counter()
            run()
            least[form] = min(least[form], (perf_counter() - start) * 1e3)
    return {form: round(ms, 3) for form, ms in least.items()}


def _session(
    name: str,
    values: Values,
    attributes: Mapping[str, Any],
    device: str,
    finish: Callable[[ir.Model], None],
    *,
    with_library: bool = False,
) -> Run:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, THREADS
    if with_library:
        options.register_custom_ops_library(str(library.require("onnxruntime").path))
    model = _model(name, values, attributes, finish)
    session = ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
    binding = session.io_binding()
    for key, value in values.items():
        if key not in PARAMETERS:
            binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(value.numpy(), device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    caches = {"present_key": "past_key", "present_value": "past_value"} if name == "CausalAttention" else {}
    if with_library or finish is lower_for_ort:  # these update a cache in place
        for present, past in caches.items():
            cache = ort.OrtValue.ortvalue_from_numpy(values[past].numpy(), device, 0)
            binding.bind_ortvalue_input(past, cache)
            binding.bind_ortvalue_output(present, cache)

    def run() -> list[NDArray[Any]]:
        session.run_with_iobinding(binding)
        if device == "cuda":
            binding.synchronize_outputs()
        return [binding.get_outputs()[0].numpy()]

    return run


def _model(name: str, values: Values, attributes: Mapping[str, Any], finish: Callable[[ir.Model], None]) -> bytes:
    """One node; parameters are initializers, batch and length free, as in an exported model."""
    op = OPS[name]
    node = helper.make_node(
        name, [k if k in values else "" for k in op.input_names], list(op.outputs), domain=DOMAIN, **attributes
    )
    inputs = [_info(k, v) for k, v in values.items() if k not in PARAMETERS]
    like = {k: values[k.replace("present", "past")] if k.startswith("present") else values[op.input_names[0]]
            for k in op.outputs}  # fmt: skip
    outputs = [_info(k, v) for k, v in like.items()]
    weights = [
        helper.make_tensor(k, TYPES[v.dtype], v.shape, v.numpy().tobytes(), raw=True)
        for k, v in values.items()
        if k in PARAMETERS
    ]
    graph = helper.make_graph([node], op.stem, inputs, outputs, weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    finish(model)
    serialized: bytes = ir.to_proto(model).SerializeToString()
    return serialized


def _info(name: str, value: Tensor) -> Any:
    sizes: list[int | str] = list(value.shape)
    sizes[0] = "batch"
    if value.dim() > 2 and not name.startswith(("past", "present")):
        sizes[1] = "seq"
    return helper.make_tensor_value_info(name, TYPES[value.dtype], sizes)


def _scan_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    like = {k: torch.randn(1, length, D, generator=g).to(dtype) for k in ("x", "dt", "z")}
    rows = {k: torch.randn(1, length, 1, N, generator=g).to(dtype) for k in ("B", "C")}
    values = {
        "x": like["x"],
        "dt": like["dt"],
        "A": -torch.arange(1.0, N + 1).expand(D, N).contiguous(),
        "B": rows["B"],
        "C": rows["C"],
        "D": torch.ones(D),
        "z": like["z"],
        "dt_bias": torch.randn(D, generator=g) - 4,
        "past": torch.randn(1, D, N, generator=g),
        "seq_lens": torch.tensor([length], dtype=torch.int32),
    }
    return values, {"dt_softplus": 1}


def _conv_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (1, length, D), "weight": (D, K), "bias": (D,), "past": (1, D, K - 1)}
    values = {name: torch.randn(*shape, generator=g).to(dtype) for name, shape in shapes.items()}
    return values | {"seq_lens": torch.tensor([length], dtype=torch.int32)}, {"activation": "silu"}


def _attention_inputs(length: int, dtype: torch.dtype) -> tuple[Values, dict[str, Any]]:
    """A prompt into an empty cache, or one token after a prompt."""
    g = torch.Generator().manual_seed(0)
    past = PROMPT if length == 1 else 0
    new = {k: torch.randn(1, length, HEADS, HEAD_DIM, generator=g).to(dtype) for k in ("query", "key", "value")}
    old = {k: torch.randn(1, HEADS, past + length, HEAD_DIM, generator=g).to(dtype) for k in ("past_key", "past_value")}
    lens = {"past_lens": torch.tensor([past], dtype=torch.int32), "seq_lens": torch.tensor([length], dtype=torch.int32)}
    return new | old | lens, {"scale": HEAD_DIM**-0.5, "window": 0, "softcap": 0.0}


INPUTS = {"SelectiveScan": _scan_inputs, "CausalConv1d": _conv_inputs, "CausalAttention": _attention_inputs}


def _eager_scan(v: Values) -> Run:
    """The scan as transformers runs it where its CUDA kernels do not; it starts from an empty state."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    x, dt, z = (v[k].transpose(1, 2) for k in ("x", "dt", "z"))
    B, C = (v[k][:, :, 0].transpose(1, 2) for k in ("B", "C"))

    @torch.no_grad()
    def run() -> Any:
        return mamba_selective_scan(
            x, dt, v["A"], B, C, v["D"], z, v["dt_bias"], delta_softplus=True, return_last_state=True
        )

    return run


def _print(rows: list[dict[str, Any]], device: str) -> None:
    forms = list(dict.fromkeys(form for row in rows for form in row["ms"]))
    table = Table(title=f"ms in ONNX Runtime {ort.__version__} on {device}, {THREADS} threads", title_justify="left")
    for name in ("op", "tokens", "dtype", *forms):
        table.add_column(name, justify="left" if name in ("op", "dtype") else "right")
    for row in rows:
        cells = (f"{row['ms'][form]:.3f}" if form in row["ms"] else "" for form in forms)
        table.add_row(row["op"], str(row["tokens"]), row["dtype"], *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
