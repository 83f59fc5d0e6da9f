"""What the ONNX parser of TensorRT 8.6 reads, of the ops that our graphs have: docs/operators.md of release/8.6-GA at
github.com/onnx/onnx-tensorrt, and its importers where those read more. Limits of release/10.1-GA are held to as well.

1. The first tensor has a type that TensorRT has for the op. It makes int32 of int64.
2. Axes, and how many are wanted of TopK, are constants.
3. TopK gives its values in order (10.1), 3840 at most; ScatterElements reduces nothing; ConstantOfShape fills with a
   float, of which the importer takes any.
"""

from __future__ import annotations

import onnx_ir as ir

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
NUMBERS = FLOATS | {ir.DataType.INT32, ir.DataType.INT64}
BOOL = {ir.DataType.BOOL}
TYPES: dict[str, set[ir.DataType]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Min", "Max", "Neg", "Range", "ScatterElements", "TopK"), NUMBERS),
    **dict.fromkeys(("Equal", "Less", "Greater", "Clip"), NUMBERS),  # of Clip, the importer reads integers too
    **dict.fromkeys(("Cos", "Sin", "Exp", "Erf", "Sqrt", "Pow", "Floor", "Reciprocal", "Sigmoid", "Tanh"), FLOATS),
    **dict.fromkeys(("Relu", "Softplus", "Softmax", "ReduceMean", "ReduceMax", "ReduceSum", "Gemm", "MatMul"), FLOATS),
    **dict.fromkeys(("Conv", "LayerNormalization"), FLOATS),
    **dict.fromkeys(("Cast", "Concat", "Expand", "Gather", "GatherElements", "Identity", "Reshape"), NUMBERS | BOOL),
    **dict.fromkeys(("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"), NUMBERS | BOOL),
    **dict.fromkeys(("Not", "And", "Or"), BOOL),
    "ConstantOfShape": {ir.DataType.INT32, ir.DataType.INT64},
}
CONSTANTS = {"ReduceSum": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "TopK": 1}
"""By op, the input that has to be one."""

MOST = 3840


def unread(node: ir.Node) -> str | None:
    """Why a node of standard ONNX is not read; None where it is."""
    if node.op_type not in TYPES:
        return f"{node.op_type} is not in this list: look it up in operators.md"
    dtype = node.inputs[1 if node.op_type == "Where" else 0].dtype
    if dtype is not None and dtype not in TYPES[node.op_type]:
        return f"{node.op_type} of {dtype}"  # 1
    index = CONSTANTS.get(node.op_type, len(node.inputs))
    constant = node.inputs[index] if index < len(node.inputs) else None
    if constant is not None and constant.const_value is None:
        return f"{node.op_type} of input {index}, which is no constant"  # 2
    return _beyond(node, constant)


def _beyond(node: ir.Node, constant: ir.Value | None) -> str | None:  # 3
    if node.op_type == "TopK":
        if node.attributes.get_int("sorted", 1) != 1:
            return "TopK in any order"
        if constant is None or constant.const_value.numpy().item() > MOST:
            return f"TopK of more than {MOST}"
    if node.op_type == "ScatterElements" and node.attributes.get_string("reduction", "none") != "none":
        return "ScatterElements with a reduction"
    if node.op_type == "ConstantOfShape" and (fill := node.attributes.get_tensor("value", None)) is not None:
        return None if fill.dtype in FLOATS else f"ConstantOfShape of {fill.dtype}"
    return None
