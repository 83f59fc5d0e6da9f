"""Experts: each token through the experts that its router chose, weighted and summed.

    y = sum over i of weight[i] * expert[chosen[i]](x);   expert(x) = down h + down_bias
    gate, up = the first and the last F of gate_up x + gate_up_bias;   h = act(gate) * up
    and without a gate h = act(gate_up x + gate_up_bias)

Symbols: B batch, L tokens in this call, D channels, k experts of a token, E experts, F hidden channels of an expert,
U rows of gate_up: 2F where gated, F where not.

    x            T[B,L,D]
    chosen       I[B,L,k]    an index outside 0..E-1 contributes nothing, as of a padded token
    weight       F[B,L,k]    the router's, as ``top_k_router`` gives them
    gate_up      T[E,U,D]    as ``gate_up_proj`` (``up_proj`` where not gated) of transformers' experts
    down         T[E,D,F]
    gate_up_bias T[E,U]      optional
    down_bias    T[E,D]      optional
    y            T[B,L,D]

T is float32, float16 or bfloat16; sums are float32. Weights of experts that no token chose are not read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import accumulation_dtype

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}
"""By the attribute's word; ``gelu_tanh`` is transformers' ``gelu_pytorch_tanh``."""


def reference(
    x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None,
    down_bias: Tensor | None, gated: int = 1, activation: str = "silu",
) -> list[Tensor]:  # fmt: skip
    wide = accumulation_dtype(x)
    tokens, chosen, weight = x.to(wide).flatten(0, 1), chosen.flatten(0, 1), weight.to(wide).flatten(0, 1)
    y = torch.zeros_like(tokens)
    for expert in chosen.unique().tolist():
        if not 0 <= expert < len(gate_up):
            continue
        token, place = (chosen == expert).nonzero(as_tuple=True)
        h = _projected(tokens[token], gate_up, gate_up_bias, expert)
        gate, up = h.chunk(2, dim=-1) if gated else (h, 1)
        h = ACTIVATIONS[activation](gate) * up
        y.index_add_(0, token, _projected(h, down, down_bias, expert) * weight[token, place, None])
    return [y.view(x.shape).to(x.dtype)]


def _projected(rows: Tensor, weights: Tensor, biases: Tensor | None, expert: int) -> Tensor:
    bias = None if biases is None else biases[expert].to(rows.dtype)
    return functional.linear(rows, weights[expert].to(rows.dtype), bias)


def fake(
    x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None,
    down_bias: Tensor | None, gated: int = 1, activation: str = "silu",
) -> list[Tensor]:  # fmt: skip
    return [torch.empty_like(x)]


BODY_ACTIVATIONS = {
    "silu": ["sigmoid = Sigmoid (gate)", "acted = Mul (gate, sigmoid)"],
    "gelu": ["acted = Gelu (gate)"],
    "gelu_tanh": ['acted = Gelu <approximate = "tanh"> (gate)'],
    "relu": ["acted = Relu (gate)"],
    "relu2": ["positive = Relu (gate)", "acted = Mul (positive, positive)"],
}


def body(call: Call) -> list[str]:
    """A Loop over the experts that are chosen: each gathers its own weights and its own tokens."""
    return [
        "D = Shape <start = 2, end = 3> (x)",
        "k = Shape <start = 2, end = 3> (chosen)",
        "E = Shape <start = 0, end = 1> (gate_up)",
        "rest = Constant <value_ints = [-1]> ()",
        "rows_shape = Concat <axis = 0> (rest, D)",
        "x_rows = Reshape (x, rows_shape)",
        "x_wide = Cast <to = 1> (x_rows)",
        "weights = Reshape (weight, rest)",
        *_chosen_experts(),
        "rows_all = Shape (x_wide)",
        "zeros = ConstantOfShape (rows_all)",
        "always = Constant <value = bool {1}> ()",
        "hits = Size (experts)",
        "sums = Loop <body = expert (int64 i, bool going, sum_in) => (going_on, sum_out) {",
        "  going_on = Identity (going)",
        "  index = Gather <axis = 0> (experts, i)",
        *("  " + line for line in _expert(call)),
        '  sum_out = ScatterND <reduction = "add"> (sum_in, tokens_column, weighted)',
        "}> (hits, always, zeros)",
        "x_shape = Shape (x)",
        "y_wide = Reshape (sums, x_shape)",
        "y = CastLike (y_wide, x)",
    ]


def _chosen_experts() -> list[str]:
    """int64 ``pairs`` [B*L*k], the experts of tokens, and ``experts``, the chosen ones that there are, each once."""
    return [
        "pairs_i = Reshape (chosen, rest)",
        "pairs = Cast <to = 7> (pairs_i)",
        "zero = Constant <value_int = 0> ()",
        "below = Less (pairs, zero)",
        "beyond = GreaterOrEqual (pairs, E)",
        "outside = Or (below, beyond)",
        "slots = Where (outside, E, pairs)",  # one past the experts
        "one = Constant <value_ints = [1]> ()",
        "slot_count = Add (E, one)",
        "unhit = ConstantOfShape <value = int64[1] {0}> (slot_count)",
        "slots_shape = Shape (slots)",
        "marks = ConstantOfShape <value = int64[1] {1}> (slots_shape)",
        "hit_slots = ScatterElements <axis = 0> (unhit, slots, marks)",
        "first = Constant <value_ints = [0]> ()",
        "hit = Slice (hit_slots, first, E)",
        "found = NonZero (hit)",
        "experts = Reshape (found, rest)",
    ]


def _expert(call: Call) -> list[str]:
    """``tokens_column`` [n,1] and ``weighted`` [n,D]: what the expert of ``index`` adds to its tokens."""
    return [
        "is_pair = Equal (pairs, index)",
        "pair_row = NonZero (is_pair)",
        "pair = Reshape (pair_row, rest)",
        "token = Div (pair, k)",
        "tokens_column = Unsqueeze (token, rest)",
        "rows = Gather <axis = 0> (x_wide, token)",
        *_projection("gate_up", "rows", "h_all", call),
        *(["gate, up = Split <axis = 1, num_outputs = 2> (h_all)"] if call.attributes["gated"] else
          ["gate = Identity (h_all)"]),
        *BODY_ACTIVATIONS[str(call.attributes["activation"])],
        "h = Mul (acted, up)" if call.attributes["gated"] else "h = Identity (acted)",
        *_projection("down", "h", "out", call),
        "pair_weights = Gather <axis = 0> (weights, pair)",
        "pair_column = Unsqueeze (pair_weights, rest)",
        "weighted = Mul (out, pair_column)",
    ]  # fmt: skip


def _projection(name: str, rows: str, result: str, call: Call) -> list[str]:
    lines = [f"{name}_own = Gather <axis = 0> ({name}, index)", f"{name}_wide = Cast <to = 1> ({name}_own)"]
    bias = ""
    if f"{name}_bias" in call:
        lines += [
            f"{name}_bias_own = Gather <axis = 0> ({name}_bias, index)",
            f"{name}_bias_wide = Cast <to = 1> ({name}_bias_own)",
        ]
        bias = f", {name}_bias_wide"
    return [*lines, f"{result} = Gemm <transB = 1> ({rows}, {name}_wide{bias})"]


def experts(
    x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None, *, gated: bool = True, activation: str = "silu",
) -> Tensor:  # fmt: skip
    """Each token through the experts that its router chose: ``sum of weight[i] * expert[chosen[i]](x)``.

    Args:
        x: T[B,L,D], float32, float16 or bfloat16.
        chosen: int32[B,L,k]; an index outside 0..E-1 contributes nothing.
        weight: float32[B,L,k].
        gate_up: T[E,2F,D], the gate's rows first; T[E,F,D] where not gated.
        down: T[E,D,F].
        gate_up_bias, down_bias: T[E,2F] (T[E,F] where not gated) and T[E,D].
        gated: ``activation(gate) * up``, else ``activation(up)``.
        activation: "silu", "gelu", "gelu_tanh", "relu" or "relu2".

    Returns:
        T[B,L,D].
    """
    (y,) = torch.ops.seqexport.experts(
        x, chosen, weight, gate_up, down, gate_up_bias, down_bias, int(gated), activation
    )
    return y


OP = Op(
    name="Experts",
    stem="experts",
    inputs={
        "x": "T",
        "chosen": "I",
        "weight": "F",
        "gate_up": "T",
        "down": "T",
        "gate_up_bias?": "T",
        "down_bias?": "T",
    },
    outputs={"y": "T"},
    attributes={"gated": 1, "activation": "silu"},
    reference=reference,
    fake=fake,
    body=body,
)
