"""CausalAttention as GroupQueryAttention of com.microsoft, which ONNX Runtime has fast kernels for.

It writes new keys and values into the cache in place, where past and present are bound to one memory.

Its lengths differ from ours: ``seqlens_k`` is how many tokens a row has after the call, minus one, and
``query_seqlens`` (the last input) how many of the new ones are valid. A row without any token would give -1, which it
does not take; it is told 0, and because none of its new tokens is valid, its cache stays as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from seqexport.plugins.ops import Call

HEAD_MULTIPLE = 8
UNUSED_INPUTS = '"", ' * 9
"""From the rotary caches to the norms of query and key; ``query_seqlens`` comes after them."""


def body(node: ir.Node, call: Call) -> list[str] | None:
    """None where GroupQueryAttention cannot do it: head sizes that differ or are no multiple of 8."""
    query, key, value = (v.shape for v in node.inputs[:3] if v is not None)
    if query is None or key is None or value is None or "seq_lens" not in call:
        return None
    (Hq, Dh), (Hkv, Dv) = query[2:], value[2:]
    if not isinstance(Dh, int) or Dh != Dv or Dh % HEAD_MULTIPLE:
        return None
    window = int(call.attributes["window"]) or -1
    return [
        "flat = Constant <value_ints = [0, 0, -1]> ()",
        "query_flat = Reshape (query, flat)",
        "key_flat = Reshape (key, flat)",
        "value_flat = Reshape (value, flat)",
        "one = Constant <value = int32 {1}> ()",
        "zero = Constant <value = int32 {0}> ()",
        "ends = Add (past_lens, seq_lens)",
        "ends_less_1 = Sub (ends, one)",
        "seqlens_k = Max (ends_less_1, zero)",
        "capacity_long = Shape <start = 2, end = 3> (past_key)",
        "capacity = Cast <to = 6> (capacity_long)",
        "y_flat, present_key, present_value = com.microsoft.GroupQueryAttention <"
        f"num_heads = {Hq}, kv_num_heads = {Hkv}, scale : float = @scale, softcap : float = @softcap,"
        f" local_window_size = {window}> (query_flat, key_flat, value_flat, past_key, past_value, seqlens_k,"
        f" capacity, {UNUSED_INPUTS} seq_lens)",
        "y_shape = Shape (query)",
        "y = Reshape (y_flat, y_shape)",
    ]
