"""CausalAttention: attention of new tokens over a key/value cache of fixed capacity, which it also writes.

    present[b, :, past_lens[b] + t] = (key, value)[b, t]                        for valid t
    y[b,t] = softmax(scale * query[b,t] . present_key[b,:,j]) . present_value[b,:,j]
             over keys j <= past_lens[b] + t, and j > past_lens[b] + t - window where a window is set;
             with softcap c > 0 the scores are first squashed to c * tanh(score / c) (Gemma 2, section 2)

Symbols: B batch, L tokens in this call, Hq query heads, Hkv key/value heads (query head h reads h * Hkv / Hq;
Ainslie et al. 2023, GQA), Dh and Dv head sizes, S capacity of the cache.

    query       T[B,L,Hq,Dh]
    key, value  T[B,L,Hkv,Dh], T[B,L,Hkv,Dv]
    past_key    T[B,Hkv,S,Dh]
    past_value  T[B,Hkv,S,Dv]
    past_lens   int32[B]    tokens already in each sequence's cache; past_lens + seq_lens <= S is the caller's duty
    seq_lens    int32[B], optional: valid tokens of each sequence; later ones give 0 and are not written
    y           T[B,L,Hq,Dv]
    present_key, present_value: as past_key, past_value, and may be the same memory

T is float32, float16 or bfloat16; scores, softmax and sums are float32. scale 0 means 1 / sqrt(Dh).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seqexport.plugins.ops.op import Call, Op
from seqexport.plugins.ops.ragged import TOKEN_MASK, accumulation_dtype


def reference(
    query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, past_lens: Tensor,
    seq_lens: Tensor | None, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    batch, L, Hq, Dh = query.shape
    present_key, present_value = past_key.clone(), past_value.clone()
    y = query.new_zeros(batch, L, Hq, value.shape[-1])
    scale = scale or 1 / math.sqrt(Dh)
    for b in range(batch):
        past = int(past_lens[b])
        new = L if seq_lens is None else int(seq_lens[b])
        present_key[b, :, past : past + new] = key[b, :new].transpose(0, 1)
        present_value[b, :, past : past + new] = value[b, :new].transpose(0, 1)
        rows = slice(0, past + new)
        y[b, :new] = _attend(query[b, :new], present_key[b, :, rows], present_value[b, :, rows], scale, window, softcap)
    return y, present_key, present_value


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int, softcap: float) -> Tensor:
    """query [L,Hq,Dh] over keys [Hkv,T,Dh] and values [Hkv,T,Dv], the queries being the last L of T positions."""
    L, total, wide = query.shape[0], keys.shape[1], accumulation_dtype(query)
    shared = query.shape[1] // keys.shape[0]
    keys, values = (x.repeat_interleave(shared, dim=0).to(wide) for x in (keys, values))
    scores = scale * query.transpose(0, 1).to(wide) @ keys.transpose(1, 2)  # [Hq,L,T]
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(total - L, total, device=query.device)[:, None]
    column = torch.arange(total, device=query.device)
    seen = column <= position
    if window:
        seen = seen & (column > position - window)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values).transpose(0, 1).to(query.dtype)


def fake(
    query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, past_lens: Tensor,
    seq_lens: Tensor | None, scale: float = 0.0, window: int = 0, softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        query.new_empty(*query.shape[:3], value.shape[3]),
        torch.empty_like(past_key),
        torch.empty_like(past_value),
    )


UNBOUNDED = 2**30
"""The reach of a query that has no window: beyond any capacity, and still an int32 when added to a position."""


def body(call: Call) -> list[str]:
    """Scatters the new rows into the cache, then attends over its filled part alone.

    The window and the scale are read as the node's attributes, so that layers which differ in them share one body.
    """
    return [
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
        "axis0 = Constant <value_ints = [0]> ()",
        "axis1 = Constant <value_ints = [1]> ()",
        "axis2 = Constant <value_ints = [2]> ()",
        "cache_axes = Constant <value_ints = [1, 3]> ()",
        "head_axes = Constant <value_ints = [1, 2]> ()",
        "zero_wide = Constant <value_float = 0.0> ()",
        "L_ = Shape <start = 1, end = 2> (query)",
        "L = Squeeze (L_)",
        "times = Range (zero, L, one)",
        "past = Cast <to = 7> (past_lens)",
        "past_column = Unsqueeze (past, axis1)",
        *REACH,
        *_new_rows(call),
        *_scatter("key", call),
        *_scatter("value", call),
        *_filled(),
        *_scores(call),
        *_mask(),
        *_output(call),
    ]


REACH = [
    "window = Constant <value_int : int = @window> ()",
    "is_whole = Equal (window, zero)",
    f"unbounded = Constant <value_int = {UNBOUNDED}> ()",
    "reach = Where (is_whole, unbounded, window)",
]
"""``reach``: a query sees keys less than this many positions before its own."""


def _new_rows(call: Call) -> list[str]:
    """``rows`` [B,L]: where each new token is written; a padded token repeats the row's last valid write."""
    if "seq_lens" not in call:
        return ["rows = Add (past_column, times)", "ends = Add (past, L)"]
    return [
        *TOKEN_MASK,
        "ends = Add (past, valid)",
        "last_ = Sub (valid, one)",
        "last = Max (last_, zero)",
        "last_column = Unsqueeze (last, axis1)",
        "source = Min (times, last_column)",
        "source_index = Unsqueeze (source, axis2)",
        "rows_ = Add (past_column, source)",
        "capacity_ = Shape <start = 2, end = 3> (past_key)",
        "last_row = Sub (capacity_, one)",
        "rows = Min (rows_, last_row)",
        "written_ = Greater (valid_cube, zero)",
        "written = Unsqueeze (written_, axis1)",
    ]


def _scatter(name: str, call: Call) -> list[str]:
    """Writes ``key`` or ``value`` [B,L,Hkv,D] into its cache [B,Hkv,S,D] at ``rows``."""
    index = [
        f"{name}_index_shape = Shape ({name}_new)",
        f"{name}_rows = Unsqueeze (rows, cache_axes)",
        f"{name}_index = Expand ({name}_rows, {name}_index_shape)",
    ]
    scatter = f"present_{name} = ScatterElements <axis = 2> (past_{name}, {name}_index, {name}_written)"
    if "seq_lens" not in call:
        return [f"{name}_new = Transpose <perm = [0, 2, 1, 3]> ({name})", *index,
                f"{name}_written = Identity ({name}_new)", scatter]  # fmt: skip
    return [
        f"{name}_source = GatherND <batch_dims = 1> ({name}, source_index)",
        f"{name}_new = Transpose <perm = [0, 2, 1, 3]> ({name}_source)",
        *index,
        f"{name}_old = GatherElements <axis = 2> (past_{name}, {name}_index)",
        f"{name}_written = Where (written, {name}_new, {name}_old)",
        scatter,
    ]


def _filled() -> list[str]:
    """``keys`` and ``values`` [B,Hkv,T,D] in float32: rows start..stop of the cache, the filled part.

    Values past a row's own end are zeroed: a masked weight is 0, and 0 times what lies there must be 0.
    """
    return [
        "longest = ReduceMax <keepdims = 0> (ends)",
        "stop = Max (longest, one)",
        "shortest = ReduceMin <keepdims = 0> (past)",
        "reach_less_1 = Sub (reach, one)",
        "start_ = Sub (shortest, reach_less_1)",
        "start = Max (start_, zero)",
        "start_at = Unsqueeze (start, axis0)",
        "stop_at = Unsqueeze (stop, axis0)",
        "keys_ = Slice (present_key, start_at, stop_at, axis2)",
        "keys = Cast <to = 1> (keys_)",
        "values_ = Slice (present_value, start_at, stop_at, axis2)",
        "values_wide = Cast <to = 1> (values_)",
        "columns = Range (start, stop, one)",
        "ends_column = Unsqueeze (ends, axis1)",
        "is_filled = Less (columns, ends_column)",
        "is_filled_rows = Unsqueeze (is_filled, cache_axes)",
        "values = Where (is_filled_rows, values_wide, zero_wide)",
    ]


def _scores(call: Call) -> list[str]:
    """``scores`` [B,Hkv,R,L,T], R = Hq / Hkv query heads sharing one key head."""
    if call.attributes["scale"]:
        lines = ["scale = Constant <value_float : float = @scale> ()"]
    else:
        lines = [
            "Dh_ = Shape <start = 3, end = 4> (query)",
            "Dh = Cast <to = 1> (Dh_)",
            "Dh_root = Sqrt (Dh)",
            "scale = Reciprocal (Dh_root)",
        ]
    lines += [
        "query_wide = Cast <to = 1> (query)",
        "query_scaled = Mul (query_wide, scale)",
        "query_heads = Transpose <perm = [0, 2, 1, 3]> (query_scaled)",
        "batch = Shape <start = 0, end = 1> (query)",
        "Hkv = Shape <start = 1, end = 2> (past_key)",
        "Dh_last = Shape <start = 3, end = 4> (query)",
        "rest = Constant <value_ints = [-1]> ()",
        "packed_shape = Concat <axis = 0> (batch, Hkv, rest, Dh_last)",
        "query_packed = Reshape (query_heads, packed_shape)",
        "keys_across = Transpose <perm = [0, 1, 3, 2]> (keys)",
        "packed_scores = MatMul (query_packed, keys_across)",
        "scores_shape = Concat <axis = 0> (batch, Hkv, rest, L_, T_)",
        "scores_raw = Reshape (packed_scores, scores_shape)",
    ]
    if not call.attributes["softcap"]:
        return ["T_ = Shape (columns)", *lines, "scores = Identity (scores_raw)"]
    return [
        "T_ = Shape (columns)",
        *lines,
        "softcap = Constant <value_float : float = @softcap> ()",
        "squashed_ = Div (scores_raw, softcap)",
        "squashed = Tanh (squashed_)",
        "scores = Mul (squashed, softcap)",
    ]


def _mask() -> list[str]:
    return [
        "positions_ = Add (past_column, times)",
        "positions = Unsqueeze (positions_, axis2)",
        "seen_causal = LessOrEqual (columns, positions)",
        "oldest = Sub (positions, reach)",
        "seen_window = Greater (columns, oldest)",
        "seen = And (seen_causal, seen_window)",
        "seen_heads = Unsqueeze (seen, head_axes)",
        "minus_infinity = Constant <value = float {-inf}> ()",
        "scores_seen = Where (seen_heads, scores, minus_infinity)",
    ]


def _output(call: Call) -> list[str]:
    lines = [
        "weights = Softmax <axis = -1> (scores_seen)",
        "weights_shape = Concat <axis = 0> (batch, Hkv, rest, T_)",
        "weights_packed = Reshape (weights, weights_shape)",
        "mixed_packed = MatMul (weights_packed, values)",
        "Hq = Shape <start = 2, end = 3> (query)",
        "mixed_shape = Concat <axis = 0> (batch, Hq, L_, rest)",
        "mixed_heads = Reshape (mixed_packed, mixed_shape)",
        "mixed = Transpose <perm = [0, 2, 1, 3]> (mixed_heads)",
    ]
    if "seq_lens" not in call:
        return [*lines, "y = CastLike (mixed, query)"]
    return [
        *lines,
        "mask_heads = Unsqueeze (mask, axis2)",
        "mixed_valid = Where (mask_heads, mixed, zero_wide)",
        "y = CastLike (mixed_valid, query)",
    ]


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, past_lens: Tensor,
    seq_lens: Tensor | None = None, *, scale: float | None = None, window: int = 0, softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Causal attention of new tokens over a key/value cache of fixed capacity, which takes them in.

    Args:
        query: T[B,L,Hq,Dh], float32, float16 or bfloat16; query head h reads key head ``h * Hkv / Hq``.
        key, value: T[B,L,Hkv,Dh] and T[B,L,Hkv,Dv].
        past_key, past_value: T[B,Hkv,S,Dh] and T[B,Hkv,S,Dv], caches of capacity S.
        past_lens: int32[B], tokens already in each sequence's cache; the new ones must fit behind them.
        seq_lens: int32[B], valid tokens of each sequence; later ones give 0 and are not written. None: all L.
        scale: of the scores; None: ``1 / sqrt(Dh)``.
        window: a query sees that many keys, its own among them; 0: all.
        softcap: scores are squashed to ``softcap * tanh(score / softcap)`` (Gemma 2, section 2); 0: they are not.

    Returns:
        y T[B,L,Hq,Dv], and the caches after the call.
    """
    y, present_key, present_value = torch.ops.seqexport.causal_attention(
        query, key, value, past_key, past_value, past_lens, seq_lens, scale or 0.0, window, softcap
    )
    return y, present_key, present_value


OP = Op(
    name="CausalAttention",
    stem="causal_attention",
    inputs={
        "query": "T",
        "key": "T",
        "value": "T",
        "past_key": "T",
        "past_value": "T",
        "past_lens": "I",
        "seq_lens?": "I",
    },
    outputs={"y": "T", "present_key": "T", "present_value": "T"},
    attributes={"scale": 0.0, "window": 0, "softcap": 0.0},
    windows={"query": ("Hq", "Dh"), "key": ("Hkv", "Dh"), "value": ("Hkv", "Dv")},
    reference=reference,
    fake=fake,
    body=body,
)
