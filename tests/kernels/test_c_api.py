"""Refused calls say what was wrong; none of these reaches the device."""

import pytest

from seqexport.plugins.kernels import c_api

ADDRESS = 1 << 20  # aligned, never dereferenced


def filled(kernels, op, values):
    params = kernels.ops[op].struct()
    for name, ctype in params._fields_:
        if ctype is c_api.c_void_p:
            setattr(params, name, ADDRESS)
    for name, value in values.items():
        setattr(params, name, value)
    return params


def conv(**changed):
    sizes = {
        "dtype": 2,
        "batch": 1,
        "length": 4,
        "channels": 8,
        "kernel_size": 4,
        "activation": 1,
        "x_stride": 8,
        "y": ADDRESS * 2,
    }
    return "causal_conv1d", {**sizes, **changed}


def scan(**changed):
    sizes = {
        "dtype": 2,
        "batch": 1,
        "length": 4,
        "channels": 8,
        "states": 16,
        "groups": 1,
        "x_stride": 8,
        "dt_stride": 8,
        "z_stride": 8,
        "B_stride": 16,
        "C_stride": 16,
    }
    return "selective_scan", {**sizes, **changed}


def attention(**changed):
    sizes = {
        "dtype": 2,
        "batch": 1,
        "length": 4,
        "query_heads": 4,
        "kv_heads": 2,
        "key_dim": 64,
        "value_dim": 64,
        "capacity": 16,
        "scale": 1,
        "query_stride": 256,
        "key_stride": 128,
        "value_stride": 128,
    }
    return "causal_attention", {**sizes, **changed}


def norm(**changed):
    sizes = {"dtype": 2, "rows": 4, "channels": 8, "groups": 1, "z_stride": 8, "epsilon": 1e-6}
    return "rms_norm", {**sizes, **changed}


def rotary(**changed):
    sizes = {"dtype": 2, "rows": 4, "query_heads": 4, "kv_heads": 2, "head_dim": 64, "rotary_dim": 32}
    return "rotary_embedding", {**sizes, **changed}


def linear(**changed):
    sizes = {"dtype": 2, "rows": 4, "in_features": 8, "out_features": 3}
    return "linear", {**sizes, **changed}


def experts(**changed):
    sizes = {"dtype": 2, "rows": 4, "channels": 8, "choices": 2, "experts": 4, "gate_up_channels": 12, "hidden": 6}
    return "experts", {**sizes, "gated": 1, "workspace_bytes": 1 << 20, **changed}


def router(**changed):
    sizes = {"dtype": 2, "rows": 4, "experts": 12, "k": 2, "groups": 1, "kept_groups": 1, "scale": 1}
    return "top_k_router", {**sizes, **changed}


def embedding(**changed):
    return "embedding", {"dtype": 2, "rows": 4, "vocab": 9, "channels": 8, **changed}


def last_token(**changed):
    return "last_token", {"dtype": 2, "batch": 2, "length": 4, "channels": 8, **changed}


@pytest.mark.parametrize(("call", "message"), [
    (conv(batch=65536), "batch (B) must be in 1 to 65535, got 65536"),
    (attention(window=(1 << 30) + 1), "window must be in 0 to 1073741824, got 1073741825"),
    (attention(splits=-1), "splits must be in 0 to 65535, got -1"),
    (attention(scale=0), "scale must be finite and above 0, got 0"),
    (linear(out_features=0), "out_features (N) must be in 1 to 1073741824, got 0"),
    (linear(out_features1=-1), "out_features1 (N1) must be in 0 to 1073741824, got -1"),
    (linear(out_features1=1 << 30), "N + N1 + N2 (features) must be at most 1073741824, got 1073741827"),
    (linear(out_features2=2), "weight2 must come with weight1, got it without"),
    (linear(out_features1=2, weight1=None), "weight1 is null"),
    (linear(out_features1=2, y1=None), "y1 is null"),
    (linear(bias=ADDRESS + 1), "bias must be aligned to 2 bytes"),
    (experts(choices=257), "choices (k) must be in 1 to 256, got 257"),
    (experts(experts=1025), "experts (E) must be in 1 to 1024, got 1025"),
    (experts(gate_up_channels=7), "U (rows of gate_up) must be F (hidden channels) = 6, or 2 F where gated, got 7"),
    (experts(gated=0), "input 'gate_up' must have U = 6 rows, which is F with gated = 0, got 12"),
    (experts(activation=5), "activation must be 0 (silu), 1 (gelu), 2 (gelu_tanh), 3 (relu) or 4 (relu2), got 5"),
    (experts(workspace_bytes=47), "workspace_bytes must be at least 48, got 47"),
    (experts(workspace=None), "workspace is null; pass the device pointer of 48 bytes or more"),
    (router(experts=1025), "experts (E) must be in 1 to 1024, got 1025"),
    (router(k=257), "k must be in 1 to 256, got 257"),
    (router(k=13), "k must be at most the 12 experts that a token may choose from, got 13"),
    (router(groups=5), "groups must divide E (experts) = 12, got 5"),
    (router(groups=4, kept_groups=5), "kept_groups must be at most groups = 4, got 5"),
    (router(score=2), "score must be 0 (softmax) or 1 (sigmoid), got 2"),
    (router(chosen=None), "chosen is null"),
    (embedding(vocab=0), "vocab (V) must be in 1 to"),
    (embedding(ids=ADDRESS + 2), "ids must be aligned to 4 bytes"),
    (last_token(seq_lens=None), "seq_lens is null"),
    (last_token(length=-1), "length (L) must be in 1 to"),
    (conv(kernel_size=9), "kernel_size (K) must be in 2 to 8, got 9"),
    (conv(dtype=7), "dtype must be 0 (float32), 1 (float16) or 2 (bfloat16), got 7"),
    (conv(x_stride=7), "x_stride must be at least a token's 8 elements, got 7"),
    (conv(weight=None), "weight is null"),
    (conv(present=ADDRESS + 1), "present must be aligned to 2 bytes"),
    (conv(activation=2), "activation must be 0 (none) or 1 (silu), got 2"),
    (conv(y=ADDRESS), "y must not be x"),
    (scan(length=0), "length (L) must be in 1 to"),
    (scan(states=257), "states (N) must be in 1 to 256, got 257"),
    (scan(groups=9), "G (groups) must be at most D (channels) = 8, got 9"),
    (scan(B_stride=15), "B_stride must be at least a token's 16 elements, got 15"),
    (scan(past=None), "past is null"),
    (scan(workspace=ADDRESS + 4), "workspace must be aligned to 16 bytes"),
    (attention(query_heads=5), "Hq (query heads) must be a multiple of Hkv (key heads) = 2, got 5"),
    (attention(key_dim=257), "key_dim (Dh) must be in 1 to 256, got 257"),
    (attention(capacity=0), "capacity (S) must be in 1 to"),
    (attention(scale=float("nan")), "scale must be finite and above 0"),
    (attention(softcap=-1), "softcap must be finite and 0 or more, got -1"),
    (attention(window=-2), "window must be in 0 to"),
    (attention(past_lens=None), "past_lens is null"),
    (norm(rows=0), "rows (B * L) must be in 1 to"),
    (norm(channels=0), "channels (D) must be in 1 to"),
    (norm(dtype=-1), "dtype must be 0 (float32), 1 (float16) or 2 (bfloat16), got -1"),
    (norm(wide=2), "wide must be in 0 to 1, got 2"),
    (norm(groups=3), "groups must divide D (channels) = 8, got 3"),
    (norm(z_stride=7), "z_stride must be at least a token's 8 elements, got 7"),
    (norm(epsilon=-1), "epsilon must be finite and 0 or more, got -1"),
    (norm(weight=None), "weight is null"),
    (norm(wide=1, sum=ADDRESS + 2), "sum must be aligned to 4 bytes"),
    (rotary(rotary_dim=66), "R (rotated features) must be even and at most Dh = 64, got 66"),
    (rotary(rotary_dim=31), "R (rotated features) must be even and at most Dh = 64, got 31"),
    (rotary(kv_heads=0), "kv_heads (Hkv) must be in 1 to"),
    (rotary(sin=None), "sin is null"),
    (rotary(key_rotated=ADDRESS + 1), "key_rotated must be aligned to 2 bytes"),
])  # fmt: skip
def test_refused(kernels, call, message):
    op, values = call
    with pytest.raises(c_api.KernelRefused) as raised:
        kernels.call(op, filled(kernels, op, values))
    assert str(raised.value).startswith(f"{op}: ") and message in str(raised.value)


def test_refused_null_params(kernels):
    assert kernels.library.seqexport_causal_conv1d(None, None) == 1
    assert b"params is null" in kernels.library.seqexport_last_error()


def test_workspace_of_refused_sizes_is_0(kernels):
    for op, values in (scan(states=0), attention(kv_heads=0), attention(window=-1)):
        assert kernels.workspace(op, filled(kernels, op, values)) == 0
