"""Answers in another Python's ONNX Runtime: MODEL [LIBRARY], then a line INPUTS.npz OUTPUTS.npz for each call.

Says the version of ONNX Runtime once the model is open, and a line after each call.
"""

import sys

import numpy as np
import onnxruntime as ort

model, *libraries = sys.argv[1:]
options = ort.SessionOptions()
for library in libraries:
    options.register_custom_ops_library(library)
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = {value.name for value in session.get_inputs()}
print(ort.__version__, flush=True)
for line in sys.stdin:
    inputs, outputs = line.split()
    results = session.run(None, {name: value for name, value in np.load(inputs).items() if name in names})
    np.savez(outputs, **{value.name: result for value, result in zip(session.get_outputs(), results)})  # noqa: B905
    print("done", flush=True)
