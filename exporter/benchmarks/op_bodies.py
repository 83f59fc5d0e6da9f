"""Ways to write the bodies of SelectiveScan and CausalConv1d in ONNX, timed on ONNX Runtime's CPU.

    python -m seqexport.exporter.benchmarks.op_bodies [-o op_bodies.json]

Each form is checked against float64 before it is timed. What was found (op_bodies.json) and why the bodies are what
they are:

- Scan, one token a step, is the form of choice, not the fastest everywhere. A step costs six passes over a state of
  D*N floats, which the second-level cache holds; Scan itself costs about a tenth of it. A scan in a scan was 17 %
  faster in the recorded run and 2.5 times slower in a busier one, its [chunk, N, D] intermediates leaving the cache;
  unrolling gained nothing, and doubling does log2(chunk) times the work. The one-token form alone needs no padding
  and no second path for decode.
- The state is laid out [N, D], so that every broadcast runs along D; [D, N] broadcasts in runs of N = 16 floats.
- Windows gathered and summed win among the convolutions that read K at run time. Conv over an image of one row is
  faster still, but its group count fixes D: that is what the target ``ort`` uses.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort
from numpy.typing import NDArray

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

D, N, K, THREADS, REPEATS = 1536, 16, 4, 2, 15
PARAMETERS = ("A", "weight", "bias")
Arrays = dict[str, NDArray[np.float32]]
STEP = """exponent = Mul (d, A)
decay = Exp (exponent)
kept = Mul (decay, h)
added = Mul (b, u)
h_next = Add (kept, added)
y_t = MatMul (c, h_next)"""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("op_bodies.json"), show_default=True)
def main(output: Path) -> None:
    from seqexport.runtimes.machine import this_machine

    rows = []
    for length in (1024, 1):
        scan, truth = _scan_inputs(length)
        for name, text in _scan_forms(length).items():
            rows.append({"op": "SelectiveScan", "form": name, "tokens": length, "ms": _time(text, scan, truth)})
        conv, truth = _conv_inputs(length)
        for name, text in CONV_FORMS.items():
            rows.append({"op": "CausalConv1d", "form": name, "tokens": length, "ms": _time(text, conv, truth)})
    _print(rows)
    setting = {"D": D, "N": N, "K": K, "batch": 1, "dtype": "float32", "threads": THREADS, "repeats": REPEATS}
    record = {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "results": rows}
    write_json(output, record)


def _time(text: str, feeds: Arrays, truth: NDArray[np.float64]) -> float:
    """Median milliseconds of a graph whose first output must be ``truth``."""
    parameters = {name: feeds[name] for name in PARAMETERS if name in feeds}
    feeds = {name: array for name, array in feeds.items() if name not in parameters}
    inputs = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in feeds.items())
    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} g ({inputs}) => (float[o0, o1, o2, o3] y) {{ {text} }}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in parameters.items())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return milliseconds(model.SerializeToString(), feeds, truth, bound=1e-6, repeats=REPEATS)


def milliseconds(
    model: bytes, feeds: Mapping[str, NDArray[Any]], truth: NDArray[Any], *, bound: float, repeats: int
) -> float:
    """The median of a model's calls in ONNX Runtime on the CPU, whose first output is within ``bound`` of the truth."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, THREADS
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    error = np.linalg.norm(session.run(None, feeds)[0].reshape(truth.shape) - truth) / np.linalg.norm(truth)
    assert error < bound, f"error {error:.1e} against float64"
    times = []
    for _ in range(repeats):
        start = perf_counter()
        session.run(None, feeds)
        times.append((perf_counter() - start) * 1e3)
    return round(statistics.median(times), 3)


def _scan_inputs(length: int) -> tuple[Arrays, NDArray[np.float64]]:
    """delta, u = delta * x [L,1,D]; B [L,N,1]; C [L,1,N]; A, h0 [N,D]; and y [L,1,D] by the recurrence in float64."""
    rng = np.random.default_rng(0)
    delta = np.log1p(np.exp(rng.normal(size=(length, 1, D)) - 3))
    arrays = {
        "delta": delta,
        "u": delta * rng.normal(size=(length, 1, D)),
        "B": rng.normal(size=(length, N, 1)),
        "C": rng.normal(size=(length, 1, N)),
        "A": -np.tile(np.arange(1.0, N + 1)[:, None], (1, D)),
        "h0": rng.normal(size=(N, D)),
    }
    feeds = {name: array.astype(np.float32) for name, array in arrays.items()}
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    h, y = wide["h0"], np.empty((length, 1, D))
    for t in range(length):
        h = np.exp(wide["delta"][t] * wide["A"]) * h + wide["B"][t] * wide["u"][t]
        y[t] = wide["C"][t] @ h
    return feeds, y


def _scan_forms(length: int) -> dict[str, str]:
    forms = {"one token a step": _scan("h0", "delta, u, B, C", STEP, "y")}
    if length == 1:
        return forms
    chunked: dict[str, Callable[[int], str]] = {"unrolled": _unrolled, "scan in a scan": _nested, "doubling": _doubling}
    return forms | {f"{name}, chunks of {q}": _in_chunks(q, form(q)) for name, form in chunked.items() for q in (8, 32)}


def _scan(state: str, inputs: str, body: str, output: str) -> str:
    signature = "chunk (h, d, u, b, c) => (h_next, y_t)"
    return f"last, {output} = Scan <num_scan_inputs = 4, body = {signature} {{ {body} }}> ({state}, {inputs})"


def _in_chunks(q: int, body: str) -> str:
    shapes = {"delta": f"-1, {q}, 1, {D}", "u": f"-1, {q}, 1, {D}", "B": f"-1, {q}, {N}, 1", "C": f"-1, {q}, 1, {N}"}
    cut = [f"{n}_s = Constant <value_ints = [{s}]> ()\n{n}_q = Reshape ({n}, {n}_s)" for n, s in shapes.items()]
    return "\n".join([*cut, _scan("h0", "delta_q, u_q, B_q, C_q", body, "y")])


def _parts(name: str, q: int) -> str:
    parts = ", ".join(f"{name}{i}_" for i in range(q))
    squeezed = "\n".join(f"{name}{i} = Squeeze ({name}{i}_, first)" for i in range(q))
    return f"{parts} = Split <axis = 0, num_outputs = {q}> ({name})\n{squeezed}"


def _unrolled(q: int) -> str:
    lines = ["first = Constant <value_ints = [0]> ()", *(_parts(name, q) for name in "dubc")]
    state = "h"
    for i in range(q):
        lines += [f"e{i} = Mul (d{i}, A)", f"a{i} = Exp (e{i})", f"k{i} = Mul (a{i}, {state})"]
        lines += [f"w{i} = Mul (b{i}, u{i})", f"s{i} = Add (k{i}, w{i})", f"y{i} = MatMul (c{i}, s{i})"]
        lines += [f"z{i} = Unsqueeze (y{i}, first)"]
        state = f"s{i}"
    joined = ", ".join(f"z{i}" for i in range(q))
    return "\n".join([*lines, f"y_t = Concat <axis = 0> ({joined})", f"h_next = Identity ({state})"])


def _nested(q: int) -> str:
    inner = "p_kept = Mul (a_t, p)\np_next = Add (p_kept, w_t)\nevery = Identity (p_next)"
    return f"""e = Mul (d, A)
a = Exp (e)
w = Mul (b, u)
h_next, hs = Scan <num_scan_inputs = 2, body = token (p, a_t, w_t) => (p_next, every) {{ {inner} }}> (h, a, w)
y_t = MatMul (c, hs)"""


def _doubling(q: int) -> str:
    """Hillis & Steele's scan of the pairs (a, w) -> (a2 a1, a2 w1 + w2), the state folded into the first w."""
    lines = ["zero = Constant <value_ints = [0]> ()", f"all = Constant <value_ints = [{q}]> ()"]
    lines += ["e = Mul (d, A)", "a0 = Exp (e)", "w_raw = Mul (b, u)", "one = Constant <value_ints = [1]> ()"]
    lines += [
        "a_head = Slice (a0, zero, one, zero)",
        "carried = Mul (a_head, h)",
        "w_head = Slice (w_raw, zero, one, zero)",
    ]
    lines += ["w_first = Add (w_head, carried)", "w_rest = Slice (w_raw, one, all, zero)"]
    lines += ["w0 = Concat <axis = 0> (w_first, w_rest)"]
    step = 0
    while 1 << step < q:
        i, n = step, step + 1
        lines += [
            f"by{i} = Constant <value_ints = [{1 << i}]> ()",
            f"to{i} = Constant <value_ints = [{q - (1 << i)}]> ()",
        ]
        for v in "aw":
            lines += [
                f"{v}_late{i} = Slice ({v}{i}, by{i}, all, zero)",
                f"{v}_keep{i} = Slice ({v}{i}, zero, by{i}, zero)",
            ]
            lines += [f"{v}_early{i} = Slice ({v}{i}, zero, to{i}, zero)"]
        lines += [f"w_moved{i} = Mul (a_late{i}, w_early{i})", f"w_sum{i} = Add (w_late{i}, w_moved{i})"]
        lines += [f"a_sum{i} = Mul (a_late{i}, a_early{i})", f"a{n} = Concat <axis = 0> (a_keep{i}, a_sum{i})"]
        lines += [f"w{n} = Concat <axis = 0> (w_keep{i}, w_sum{i})"]
        step = n
    lines += [f"y_t = MatMul (c, w{step})", f"before = Constant <value_ints = [{q - 1}]> ()"]
    return "\n".join([*lines, f"h_last = Slice (w{step}, before, all, zero)", "h_next = Squeeze (h_last, zero)"])


def _conv_inputs(length: int) -> tuple[Arrays, NDArray[np.float64]]:
    """xx [1,L+K-1,D], weight [D,K], bias [D]; and y [1,L,D] in float64, before the activation."""
    rng = np.random.default_rng(0)
    shapes = {"xx": (1, length + K - 1, D), "weight": (D, K), "bias": (D,)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    taps = (wide["xx"][:, j : j + length] * wide["weight"][:, j] for j in range(K))
    return feeds, sum(taps, start=np.zeros(1)) + wide["bias"]


SIZES = """zero = Constant <value_int = 0> ()
one = Constant <value_int = 1> ()
ax1 = Constant <value_ints = [1]> ()
ax2 = Constant <value_ints = [2]> ()
whole_ = Shape <start = 1, end = 2> (xx)
K_ = Shape <start = 1, end = 2> (weight)
less_ = Sub (whole_, K_)
L_ = Add (less_, one)
L = Squeeze (L_)
K = Squeeze (K_)
rows = Transpose <perm = [1, 0]> (weight)
"""
CONV_FORMS = {
    "windows gathered": SIZES
    + """times = Range (zero, L, one)
taps = Range (zero, K, one)
column = Unsqueeze (times, ax1)
index = Add (column, taps)
windows = Gather <axis = 1> (xx, index)
products = Mul (windows, rows)
sums = ReduceSum <keepdims = 0> (products, ax2)
y = Add (sums, bias)""",
    "a Loop over taps": SIZES
    + f"""shape = Constant <value_ints = [1, -1, {D}]> ()
again = Constant <value = bool {{1}}> ()
first_ = Slice (xx, zero1, L_, ax1)
blank_ = Sub (first_, first_)
blank = Add (blank_, bias)
y = Loop <body = tap (int64 i, bool go, float[b, l, d] sum) => (bool go_on, float[b, l, d] sum_next) {{
  go_on = Identity (go)
  from = Reshape (i, ax1)
  to = Add (from, L_)
  part = Slice (xx, from, to, ax1)
  w = Gather <axis = 0> (rows, i)
  product = Mul (part, w)
  sum_next = Add (sum, product)
}}> (K, again, blank)""".replace("zero1", "ax0").replace("shape =", "ax0 = Constant <value_ints = [0]> ()\nshape ="),
    "depthwise Conv": f"""ax1 = Constant <value_ints = [1]> ()
x = Transpose <perm = [0, 2, 1]> (xx)
kernel = Unsqueeze (weight, ax1)
out = Conv <group = {D}> (x, kernel, bias)
y = Transpose <perm = [0, 2, 1]> (out)""",
    "com.microsoft.CausalConvWithState": f"""ax1 = Constant <value_ints = [1]> ()
kernel = Unsqueeze (weight, ax1)
K_less_1 = Constant <value_ints = [{K - 1}]> ()
zero1 = Constant <value_ints = [0]> ()
many = Constant <value_ints = [9999999]> ()
past = Slice (xx, zero1, K_less_1, ax1)
x = Slice (xx, K_less_1, many, ax1)
y, present = com.microsoft.CausalConvWithState <channels_last = 1> (x, kernel, bias, past)""",
    "Conv over an image of one row": f"""ax1 = Constant <value_ints = [1]> ()
axes = Constant <value_ints = [1, 2]> ()
last = Unsqueeze (xx, ax1)
image = Transpose <perm = [0, 3, 1, 2]> (last)
kernel = Unsqueeze (weight, axes)
out = Conv <group = {D}> (image, kernel, bias)
out_last = Transpose <perm = [0, 2, 3, 1]> (out)
y = Squeeze (out_last, ax1)""",
}


def _print(rows: list[dict[str, Any]]) -> None:
    table = FittedTable(title=f"Function bodies, D = {D}, N = {N}, K = {K}, {THREADS} threads", title_justify="left")
    for name in ("op", "form", "tokens", "ms"):
        table.add_column(name, justify="right" if name in ("tokens", "ms") else "left")
    for row in rows:
        table.add_row(row["op"], row["form"], str(row["tokens"]), f"{row['ms']:.2f}")
    open_console().print(table)


if __name__ == "__main__":
    run(main)
