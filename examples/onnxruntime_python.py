"""A bundle in an ordinary ONNX Runtime session, with the library of our ops: no PyTorch, and nothing of seqexport.

python examples/onnxruntime_python.py libseqexport_ort.so BUNDLE
"""

import sys

import numpy as np
import onnxruntime as ort

library, bundle = sys.argv[1:]
options = ort.SessionOptions()
options.register_custom_ops_library(library)
session = ort.InferenceSession(f"{bundle}/model.onnx", options, providers=["CPUExecutionProvider"])

sizes = {"batch": 1, "seq": 1, "max_len": 64}  # of a state: no tokens yet, room for 64
kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}
states = {i.name: np.zeros([sizes.get(n, n) for n in i.shape], kinds[i.type])
          for i in session.get_inputs() if i.name.startswith("past_key_values.")}  # fmt: skip
takes, gives = {i.name for i in session.get_inputs()}, [o.name for o in session.get_outputs()]

text, length = [ord(letter) % 256 for letter in "The state of a "], 0
fed = text
while len(text) < 48:
    lens = {"seq_lens": np.array([len(fed)], np.int32), "past_lens": np.array([length], np.int32)}
    feeds = {"input_ids": np.array([fed]), **{name: value for name, value in lens.items() if name in takes}, **states}
    outputs = dict(zip(gives, session.run(None, feeds), strict=True))
    states = {name: outputs[name.replace("past_key_values", "present")] for name in states}
    length, fed = length + len(fed), [int(outputs["logits"][0, -1].argmax())]
    text += fed
print(text)
