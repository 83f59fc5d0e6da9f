"""ctypes mirror of c_api.h. Tensors are torch's, on the GPU; None where an optional one is absent."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ABI = 2
BAD_ARGUMENT = 1
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
ACTIVATIONS = {"none": 0, "silu": 1}


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
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


class LinearParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype rows in_features out_features out_features1 out_features2"),
        *_fields(c_void_p, "x weight bias weight1 bias1 weight2 bias2 y y1 y2 workspace"),
        ("workspace_bytes", c_size_t),
    ]


class EmbeddingParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype rows vocab channels"),
        *_fields(c_void_p, "weight ids y"),
    ]


class LastTokenParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype batch length channels"),
        *_fields(c_void_p, "x seq_lens y"),
    ]


class RmsNormParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype rows channels wide"),
        *_fields(c_float, "epsilon"),
        *_fields(c_void_p, "x weight residual y sum"),
    ]


class RotaryEmbeddingParams(Structure):
    _fields_ = [
        *_fields(c_int32, "dtype rows query_heads kv_heads head_dim rotary_dim"),
        *_fields(c_void_p, "query key cos sin query_rotated key_rotated"),
    ]


class KernelError(RuntimeError):
    """A failed call; the text is the library's own."""


class KernelRefused(KernelError):
    """The arguments are not ones that the kernel takes; nothing was launched."""


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def dtype_of(tensor: Tensor) -> int:
    return DTYPES[str(tensor.dtype).rsplit(".", 1)[-1]]


def token_stride(tensor: Tensor | None) -> int:
    """Elements between tokens of a [B,L,...] tensor whose rows of the batch are L tokens apart.

    Raises:
        ValueError: its strides are others; what the kernels read is ``tensor.contiguous()`` then.
    """
    if tensor is None:
        return 0
    inner = 1
    for size, stride in zip(reversed(tensor.shape[2:]), reversed(tensor.stride()[2:]), strict=False):
        if size > 1 and stride != inner:
            raise ValueError(f"a token's elements must be contiguous, got strides {tensor.stride()}")
        inner *= size
    stride = tensor.stride(1) if tensor.shape[1] > 1 else max(tensor.stride(0), inner)
    if stride < inner:
        raise ValueError(f"tokens must not overlap, got strides {tensor.stride()}")
    if tensor.shape[0] > 1 and tensor.stride(0) != tensor.shape[1] * stride:
        raise ValueError(f"rows of the batch must be L token strides apart, got strides {tensor.stride()}")
    return stride


class Kernels:
    """The library at `path`. Calls return at once; `stream` is a cudaStream_t as an integer."""

    def __init__(self, path: str | Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.seqexport_last_error.restype = c_char_p
        abi = self.library.seqexport_kernels_abi()
        if abi != ABI:
            raise KernelError(f"{path} has ABI {abi}, this file expects {ABI}; build the library again")
        for op, params in (
            ("causal_conv1d", CausalConv1dParams),
            ("selective_scan", SelectiveScanParams),
            ("causal_attention", CausalAttentionParams),
            ("embedding", EmbeddingParams),
            ("last_token", LastTokenParams),
            ("linear", LinearParams),
            ("rms_norm", RmsNormParams),
            ("rotary_embedding", RotaryEmbeddingParams),
        ):
            call = getattr(self.library, f"seqexport_{op}")
            call.argtypes, call.restype = [POINTER(params), c_void_p], c_int
            size = getattr(self.library, f"seqexport_{op}_workspace", None)
            if size is not None:
                size.argtypes, size.restype = [POINTER(params)], c_size_t

    def call(self, op: str, params: Structure, stream: int = 0) -> None:
        """Launch ``op``.

        Raises:
            KernelRefused: the library does not take these arguments.
            KernelError: CUDA does not take the launch.
        """
        if status := getattr(self.library, f"seqexport_{op}")(byref(params), stream):
            message = self.library.seqexport_last_error().decode()
            raise KernelRefused(message) if status == BAD_ARGUMENT else KernelError(message)

    def workspace(self, op: str, params: Structure) -> int:
        return getattr(self.library, f"seqexport_{op}_workspace")(byref(params))

    def causal_conv1d(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, seq_lens: Tensor | None, y: Tensor,
        present: Tensor, activation: str = "silu",
    ) -> CausalConv1dParams:  # fmt: skip
        """x [B,L,D], weight [D,K], bias [D]?, past and present [B,D,K-1], seq_lens [B]?, y [B,L,D]."""
        batch, length, channels = x.shape
        return CausalConv1dParams(
            dtype_of(x), batch, length, channels, weight.shape[1], ACTIVATIONS[activation], token_stride(x),
            *map(pointer, (x, weight, bias, past, seq_lens, y, present)),
        )  # fmt: skip

    def selective_scan(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        dt_bias: Tensor | None, past: Tensor, seq_lens: Tensor | None, y: Tensor, present: Tensor,
        dt_softplus: bool = True, chunks: int = 0,
    ) -> SelectiveScanParams:  # fmt: skip
        """x, dt, z?, y [B,L,D], A [D,N], B and C [B,L,G,N], D? and dt_bias? [D], past and present [B,D,N]."""
        batch, length, channels = x.shape
        return SelectiveScanParams(
            dtype_of(x), batch, length, channels, A.shape[1], B.shape[2], int(dt_softplus), chunks,
            *map(token_stride, (x, dt, z, B, C)),
            *map(pointer, (x, dt, A, B, C, D, z, dt_bias, past, seq_lens, y, present)),
        )  # fmt: skip

    def causal_attention(
        self, query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, past_lens: Tensor,
        seq_lens: Tensor | None, y: Tensor, present_key: Tensor, present_value: Tensor, scale: float | None = None,
        window: int = 0, softcap: float = 0.0, splits: int = 0,
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

    def linear(
        self, x: Tensor, weights: Sequence[Tensor | None], biases: Sequence[Tensor | None], outputs: Sequence[Tensor],
    ) -> LinearParams:  # fmt: skip
        """x [...,K], up to three weights [N,K], as many biases [N]?, and outputs [...,N]; contiguous."""
        features = [0 if weight is None else weight.shape[0] for weight in weights]
        parameters = [tensor for pair in zip(weights, biases, strict=True) for tensor in pair]
        absent = [None] * (3 - len(outputs))
        return LinearParams(
            dtype_of(x), x.numel() // x.shape[-1], x.shape[-1], *features,
            *map(pointer, (x, *parameters, *outputs, *absent)),
        )  # fmt: skip

    def embedding(self, weight: Tensor, ids: Tensor, y: Tensor) -> EmbeddingParams:
        """weight [V,D], ids int32 [...], y [...,D]; contiguous."""
        return EmbeddingParams(dtype_of(weight), ids.numel(), *weight.shape, *map(pointer, (weight, ids, y)))

    def last_token(self, x: Tensor, seq_lens: Tensor, y: Tensor) -> LastTokenParams:
        """x [B,L,D], seq_lens int32 [B], y [B,1,D]; contiguous."""
        return LastTokenParams(dtype_of(x), *x.shape, *map(pointer, (x, seq_lens, y)))

    def rms_norm(
        self, x: Tensor, weight: Tensor, residual: Tensor | None, y: Tensor, total: Tensor | None,
        epsilon: float = 1e-6, wide: bool = False,
    ) -> RmsNormParams:  # fmt: skip
        """x and y [...,D], weight [D], residual? and total? (the sum) [...,D] of float32 if wide; contiguous."""
        return RmsNormParams(
            dtype_of(x), x.numel() // x.shape[-1], x.shape[-1], int(wide), epsilon,
            *map(pointer, (x, weight, residual, y, total)),
        )  # fmt: skip

    def rotary_embedding(
        self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, query_rotated: Tensor, key_rotated: Tensor
    ) -> RotaryEmbeddingParams:
        """query and query_rotated [...,Hq,Dh], key and key_rotated [...,Hkv,Dh], cos and sin [...,R]; contiguous."""
        return RotaryEmbeddingParams(
            dtype_of(query), cos.numel() // cos.shape[-1], query.shape[-2], key.shape[-2], query.shape[-1],
            cos.shape[-1], *map(pointer, (query, key, cos, sin, query_rotated, key_rotated)),
        )  # fmt: skip
