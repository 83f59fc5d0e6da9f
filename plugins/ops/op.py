"""What one of our ops is: a schema, a PyTorch reference, and a body in standard ONNX ops."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    from torch import Tensor

DOMAIN = "seqexport"
VERSION = 1

INPUTS = "inputs"
"""The attribute of a node without gaps among its inputs, which lists the names of those that it has."""

Attribute = int | float | str

TYPES = {
    "T": ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"],
    "F": ["tensor(float)"],
    "I": ["tensor(int32)"],
    "S": ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"],
}


@dataclass(frozen=True)
class Call:
    """How one node uses an op: which optional inputs it is given, and its attributes."""

    given: frozenset[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.given


@dataclass(frozen=True)
class Op:
    """One op of the domain ``seqexport``.

    Attributes:
        name: the ONNX op type.
        stem: its name in every layer: files, ``torch.ops.seqexport.<stem>``, kernels.
        inputs: names and types, in order; a trailing ``?`` marks an input that may be absent. Types are T (float32,
            float16 or bfloat16, the same throughout a node), F (float32), I (int32) and S (F where the attribute
            ``wide`` is 1, else T).
        outputs: names and types, in order.
        reference: plain PyTorch, any float dtype, accumulating in float32 (float64 for float64 inputs); its parameters
            are the inputs, then the attributes.
        fake: the outputs' shapes and dtypes for tracing.
        body: the lines of the function body in ONNX's text syntax, for one call. Numbers are read from the node's
            attributes, so that calls of one form have one body.
        attributes: names and defaults.
        brought_by: for an output that may be absent, the optional input that brings it.
        windows: inputs whose tokens the kernels read where they lie apart, with the sizes after B and L: in target
            ``tensorrt`` such an input may be a window of a wider tensor (``read_in_place``).
        optional_outputs: outputs that a node leaves out in target ``tensorrt`` where nothing reads them.
    """

    name: str
    stem: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    reference: Callable[..., Sequence[Tensor]]
    fake: Callable[..., Sequence[Tensor]]
    body: Callable[[Call], list[str]]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    brought_by: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    optional_outputs: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(name.rstrip("?") for name in self.inputs)

    def output_names(self, given: Container[str]) -> tuple[str, ...]:
        """The outputs of a node whose inputs ``given`` are there."""
        return tuple(name for name in self.outputs if name not in self.brought_by or self.brought_by[name] in given)

    @property
    def torch_schema(self) -> str:
        """For torch.library. One output, or outputs that may be absent, are a list."""
        tensors = [f"Tensor{'?' * name.endswith('?')} {name.rstrip('?')}" for name in self.inputs]
        attributes = [f"{type(value).__name__} {name}={value!r}" for name, value in self.attributes.items()]
        is_list = len(self.outputs) == 1 or self.brought_by
        returned = "Tensor[]" if is_list else f"({', '.join(['Tensor'] * len(self.outputs))})"
        return f"({', '.join(tensors + attributes)}) -> {returned}"

    @property
    def onnx_schema(self) -> onnx.defs.OpSchema:
        from onnx.defs import OpSchema

        option = OpSchema.FormalParameterOption
        return OpSchema(
            self.name,
            DOMAIN,
            VERSION,
            inputs=[
                OpSchema.FormalParameter(
                    name.rstrip("?"),
                    kind,
                    param_option=option.Optional if name.endswith("?") else option.Single,
                )
                for name, kind in self.inputs.items()
            ],
            outputs=[
                OpSchema.FormalParameter(
                    name, kind, param_option=option.Optional if name in self.brought_by else option.Single
                )
                for name, kind in self.outputs.items()
            ],
            type_constraints=[
                (kind, TYPES[kind], "") for kind in sorted({*self.inputs.values(), *self.outputs.values()})
            ],
            attributes=[OpSchema.Attribute(name, _attribute_value(name, v)) for name, v in self.attributes.items()],
        )

    def function(
        self, call: Call, body: Sequence[str], opsets: Mapping[str, int], domain: str = DOMAIN
    ) -> onnx.FunctionProto:
        """A model-local function in the op's place: what a node that uses it like ``call`` has, with this body.

        Its inputs are those that are given; its attributes are the op's and ``inputs``.
        """
        import onnx.parser

        imports = ", ".join(f'"{name}" : {version}' for name, version in opsets.items())
        header = f'<domain: "{domain}", opset_import: [{imports}]>'
        inputs = ", ".join(name for name in self.input_names if name in call)
        signature = f"{self.name} ({inputs}) => ({', '.join(self.output_names(call.given))})"
        function = onnx.parser.parse_function(header + signature + "{\n" + "\n".join(body) + "\n}")
        function.attribute.extend([*self.attributes, INPUTS])
        return function


def _attribute_value(name: str, default: Attribute) -> onnx.AttributeProto:
    from onnx import helper

    return helper.make_attribute(name, default)


def register(op: Op) -> None:
    """Make ``torch.ops.seqexport.<stem>``: the reference on the CPU, our kernels on CUDA, the fake under tracing."""
    import torch

    from seqexport.plugins.ops import cuda

    custom = torch.library.custom_op(
        f"{DOMAIN}::{op.stem}", op.reference, mutates_args=(), schema=op.torch_schema, device_types="cpu"
    )
    custom.register_kernel("cuda", cuda.implementation(op))
    custom.register_fake(op.fake)
