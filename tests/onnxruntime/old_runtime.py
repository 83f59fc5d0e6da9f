"""Runs a model with the library in another Python's ONNX Runtime: LIBRARY MODEL INPUTS.npz OUTPUTS.npz."""

import sys

import numpy as np
import onnxruntime as ort

library, model, inputs, outputs = sys.argv[1:]
options = ort.SessionOptions()
options.register_custom_ops_library(library)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
results = session.run(None, dict(np.load(inputs)))
np.savez(outputs, **{value.name: result for value, result in zip(session.get_outputs(), results)})  # noqa: B905
print(ort.__version__)
