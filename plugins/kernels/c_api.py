"""ctypes mirror of c_api.h. Tensors are anything with torch's shape, stride(), dtype and data_ptr()."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p

ABI = 1
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
ACTIVATIONS = {"none": 0, "silu": 1}


def _fields(kind, names: str) -> list:
    return [(name, kind) for name in names.split()]


class CausalConv1dParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype batch length channels kernel_size activation"),
        *_fields(c_int64, "x_stride"),
        *_fields(c_void_p, "x weight bias past seq_lens y present"),
    ]


class SelectiveScanParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype batch length channels states groups dt_softplus chunks"),
        *_fields(c_int64, "x_stride dt_stride z_stride B_stride C_stride"),
        *_fields(c_void_p, "x dt A B C D z dt_bias past seq_lens y present workspace"),
        ("workspace_bytes", c_size_t),
    ]


class CausalAttentionParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype batch length query_heads kv_heads key_dim value_dim capacity window splits"),
        *_fields(c_float, "scale softcap"),
        *_fields(c_int64, "query_stride key_stride value_stride"),
        *_fields(c_void_p, "query key value past_key past_value past_lens seq_lens y present_key present_value"),
        *_fields(c_void_p, "workspace"),
        ("workspace_bytes", c_size_t),
    ]


class KernelError(RuntimeError):
    """A refused call; the text is the library's own."""


def pointer(tensor) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def dtype_of(tensor) -> int:
    return DTYPES[str(tensor.dtype).rsplit(".", 1)[-1]]


def token_stride(tensor) -> int:
    """Elements between tokens of a [B,L,...] tensor whose rows of the batch are L tokens apart."""
    if tensor is None:
        return 0
    inner = 1
    for size, stride in zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=False):
        if size > 1 and stride != inner:
            raise ValueError(f"a token's elements must be contiguous, got strides {tensor.stride()}")
        inner *= size
    stride = tensor.stride(1) if tensor.shape[1] > 1 else max(tensor.stride(0), inner)
    if tensor.shape[0] > 1 and tensor.stride(0) != tensor.shape[1] * stride:
        raise ValueError(f"rows of the batch must be L token strides apart, got strides {tensor.stride()}")
    return stride


class Kernels:
    """The library at `path`. Calls return at once; `stream` is a cudaStream_t as an integer."""

    def __init__(self, path: str):
        self.library = ctypes.CDLL(str(path))
        self.library.seqexport_last_error.restype = c_char_p
        abi = self.library.seqexport_kernels_abi()
        if abi != ABI:
            raise KernelError(f"{path} has ABI {abi}, this file expects {ABI}; build the library again")
        for op, params in (
            ("causal_conv1d", CausalConv1dParams),
            ("selective_scan", SelectiveScanParams),
            ("causal_attention", CausalAttentionParams),
        ):
            call = getattr(self.library, f"seqexport_{op}")
            call.argtypes, call.restype = [POINTER(params), c_void_p], c_int
            size = getattr(self.library, f"seqexport_{op}_workspace", None)
            if size is not None:
                size.argtypes, size.restype = [POINTER(params)], c_size_t

    def call(self, op: str, params: Structure, stream: int = 0) -> None:
        if getattr(self.library, f"seqexport_{op}")(byref(params), stream):
            raise KernelError(self.library.seqexport_last_error().decode())

    def workspace(self, op: str, params: Structure) -> int:
        return getattr(self.library, f"seqexport_{op}_workspace")(byref(params))

    def causal_conv1d(self, x, weight, bias, past, seq_lens, y, present, activation="silu") -> CausalConv1dParams:
        """x [B,L,D], weight [D,K], bias [D]?, past and present [B,D,K-1], seq_lens [B]?, y [B,L,D]."""
        batch, length, channels = x.shape
        return CausalConv1dParams(
            dtype_of(x), batch, length, channels, weight.shape[1], ACTIVATIONS[activation], token_stride(x),
            *map(pointer, (x, weight, bias, past, seq_lens, y, present)),
        )  # fmt: skip

    def selective_scan(self, x, dt, A, B, C, D, z, dt_bias, past, seq_lens, y, present, dt_softplus=True,
                       chunks=0) -> SelectiveScanParams:  # fmt: skip
        """x, dt, z?, y [B,L,D], A [D,N], B and C [B,L,G,N], D? and dt_bias? [D], past and present [B,D,N]."""
        batch, length, channels = x.shape
        return SelectiveScanParams(
            dtype_of(x), batch, length, channels, A.shape[1], B.shape[2], int(dt_softplus), chunks,
            *map(token_stride, (x, dt, z, B, C)),
            *map(pointer, (x, dt, A, B, C, D, z, dt_bias, past, seq_lens, y, present)),
        )  # fmt: skip

    def causal_attention(
        self, query, key, value, past_key, past_value, past_lens, seq_lens, y, present_key, present_value,
        scale=None, window=0, softcap=0.0, splits=0,
    ) -> CausalAttentionParams:  # fmt: skip
        """query [B,L,Hq,Dh], key [B,L,Hkv,Dh], value [B,L,Hkv,Dv], caches [B,Hkv,S,Dh|Dv], y [B,L,Hq,Dv]."""
        batch, length, query_heads, key_dim = query.shape
        return CausalAttentionParams(
            dtype_of(query), batch, length, query_heads, key.shape[2], key_dim, value.shape[3], past_key.shape[2],
            window, splits, key_dim**-0.5 if scale is None else scale, softcap,
            *map(token_stride, (query, key, value)),
            *map(pointer, (query, key, value, past_key, past_value, past_lens, seq_lens, y)),
            *map(pointer, (present_key, present_value)),
        )  # fmt: skip
