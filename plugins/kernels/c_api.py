"""The kernel library's C interface through ctypes. Tensors are torch's, on the GPU; None where one is absent.

The library describes its own ops (op.h): params structs, and how tensors and attributes fill them, follow from that.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ABI = 4
BAD_ARGUMENT = 1
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
CTYPES = {"int32": c_int32, "int64": c_int64, "size": c_size_t, "float": c_float, "pointer": c_void_p}


class KernelError(RuntimeError):
    """A failed call; the text is the library's own."""


class KernelRefused(KernelError):
    """The arguments are not ones that the kernel takes; nothing was launched."""


@dataclass(frozen=True)
class Size:
    """A size such as B: the field that it fills, if any, and what the kernels of each device take."""

    name: str
    field: str | None
    cpu: tuple[int, int]
    cuda: tuple[int, int]


@dataclass(frozen=True)
class TensorOf:
    """An input or output: its type is T, F, I or S, its axes are sizes (``"B"``, ``"K-1"``) or lengths; ``needs`` names
    the input that has it with it, and ``stride`` the field of the elements between tokens, where these may lie apart.
    """

    name: str
    type: str
    axes: Sequence[str | int]
    optional: bool
    needs: str | None
    stride: str | None


@dataclass(frozen=True)
class AttributeOf:
    """An attribute; one of ``choices`` is held as its index. With ``root_of`` 0 stands for 1 / sqrt of that size."""

    name: str
    kind: str
    default: float
    low: float
    high: float
    choices: Sequence[str]
    root_of: str | None

    def held(self, value: object, sizes: Mapping[str, int]) -> float:
        """The value as params hold it."""
        if self.choices and isinstance(value, str):
            return self.choices.index(value)
        number = float(value or 0)  # type: ignore[arg-type]
        if self.root_of and number == 0:
            return 1 / math.sqrt(sizes[self.root_of])
        return number if self.kind == "float" else int(number)


@dataclass(frozen=True)
class Description:
    """What the library says of one op; ``struct`` is its params struct."""

    name: str
    stem: str
    sizes: Sequence[Size]
    rows: str | None
    inputs: Sequence[TensorOf]
    outputs: Sequence[TensorOf]
    attributes: Sequence[AttributeOf]
    tuning: Sequence[str]
    workspace: int
    struct: type[Structure]

    def sizes_of(self, tensors: Mapping[str, Tensor | None]) -> dict[str, int]:
        """The sizes by their names and, as ``rows``, the tokens of an op that counts those alone.

        Raises:
            KernelRefused: the shapes do not go together.
        """
        sizes: dict[str, int] = {}
        for each in self.inputs:
            if (tensor := tensors.get(each.name)) is None:
                continue
            axes, shape = list(each.axes), list(tensor.shape)
            if self.rows and axes[:2] == ["B", "L"]:  # any leading axes
                axes, leading = ["rows", *axes[2:]], len(shape) - len(axes) + 2
                shape = [math.prod(shape[:leading]), *shape[leading:]]
            if len(axes) != len(shape):
                raise KernelRefused(f"{self.stem}: {each.name} must be {axes}, got {list(tensor.shape)}")
            for axis, length in zip(axes, shape, strict=True):
                name, _, less = str(axis).partition("-")
                if sizes.setdefault(name, length + int(less or 0)) != length + int(less or 0):
                    raise KernelRefused(f"{self.stem}: {each.name} must be {axes} with {sizes}, got {shape}")
        return sizes


def described(library: ctypes.CDLL) -> dict[str, Description]:
    """The ops of a library by their stems."""
    library.seqexport_ops_description.restype = c_char_p
    return {op["stem"]: _description(op) for op in json.loads(library.seqexport_ops_description())}


def _description(op: dict[str, Any]) -> Description:
    parts = {"sizes": Size, "inputs": TensorOf, "outputs": TensorOf, "attributes": AttributeOf}
    made = {name: tuple(kind(**each) for each in op[name]) for name, kind in parts.items()}
    known = {each.name for each in fields(Description)}
    return Description(struct=_struct(op), **{k: v for k, v in op.items() if k in known} | made)


def _struct(op: dict[str, Any]) -> type[Structure]:
    members = sorted(op["fields"], key=lambda each: each["offset"])
    kind = type(f"{op['name']}Params", (Structure,), {"_fields_": [(m["name"], CTYPES[m["type"]]) for m in members]})
    offsets = [getattr(kind, member["name"]).offset for member in members]
    if offsets != [member["offset"] for member in members] or ctypes.sizeof(kind) != op["params_bytes"]:
        raise KernelError(f"{op['name']}: the description leaves out fields of its params struct")
    return kind


def dtype_of(tensor: Tensor) -> int:
    return DTYPES[str(tensor.dtype).rsplit(".", 1)[-1]]


def token_stride(tensor: Tensor) -> int:
    """Elements between tokens of a [B,L,...] tensor whose rows of the batch are L tokens apart.

    Raises:
        ValueError: its strides are others; what the kernels read is ``tensor.contiguous()`` then.
    """
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

    ops: dict[str, Description]

    def __init__(self, path: str | Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.seqexport_last_error.restype = c_char_p
        abi = self.library.seqexport_kernels_abi()
        if abi != ABI:
            raise KernelError(f"{path} has ABI {abi}, this file expects {ABI}; build the library again")
        self.ops = described(self.library)
        for stem, op in self.ops.items():
            call, size = (getattr(self.library, f"seqexport_{stem}{suffix}") for suffix in ("", "_workspace"))
            call.argtypes, call.restype = [POINTER(op.struct), c_void_p], c_int
            size.argtypes, size.restype = [POINTER(op.struct)], c_size_t

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
        return int(getattr(self.library, f"seqexport_{op}_workspace")(byref(params)))

    def params(self, op: str, *arguments: Any, **named: Any) -> Any:
        """The params struct of a call, without workspace: a ctypes ``Structure`` whose fields are those of <op>.h.

        Arguments are, in order or by name, the op's inputs, its outputs, its attributes, and what the C interface
        alone lets callers choose (``chunks``, ``splits``). Tensors are contiguous, but for tokens that lie apart where
        a stride says so; where the kernels count tokens alone, [B,L,...] may be any leading axes.

        Raises:
            KernelRefused: the shapes do not go together.
            ValueError: tokens of a tensor lie in another way.
        """
        described = self.ops[op]
        tensors, attributes = [*described.inputs, *described.outputs], described.attributes
        order = [*(each.name for each in tensors), *(each.name for each in attributes), *described.tuning]
        values = {**dict(zip(order, arguments, strict=False)), **named}
        if unknown := set(values) - set(order):
            raise TypeError(f"{op} has no {', '.join(sorted(unknown))}; it has {', '.join(order)}")
        first = next(values[each.name] for each in described.inputs if each.type == "T")
        sizes = described.sizes_of(values)
        filled: dict[str, Any] = {"dtype": dtype_of(first)}
        filled |= {size.field: sizes[size.name] for size in described.sizes if size.field and size.name in sizes}
        if described.rows:
            filled[described.rows] = sizes["rows"]
        for each in tensors:
            tensor = values.get(each.name)
            filled[each.name] = None if tensor is None else tensor.data_ptr()
            if each.stride and tensor is not None:
                filled[each.stride] = token_stride(tensor)
        filled |= {each.name: each.held(values.get(each.name, each.default), sizes) for each in attributes}
        filled |= {name: values.get(name, 0) for name in described.tuning}
        return described.struct(**filled)
