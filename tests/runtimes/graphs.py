"""Graphs that compute nothing: what a manifest says of one, and weights that lie in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from seqexport.runtimes.manifest import Manifest, TensorSpec


def lying_in(name: str) -> TensorProto:
    """A weight in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", name), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def save_graph(model: Path, manifest: Manifest, *weights: TensorProto) -> None:
    """A graph with the inputs and outputs of a manifest."""
    inputs, outputs = ([_value(spec) for spec in specs] for specs in (manifest.inputs, manifest.outputs))
    onnx.save(helper.make_model(helper.make_graph([], "g", inputs, outputs, list(weights))), model)


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
