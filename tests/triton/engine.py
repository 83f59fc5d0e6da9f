"""Stands for Triton and its ONNX Runtime back end: runs an engine by what its configuration says, and nothing else.

It keeps states as ``sequence_batching`` has them, one sequence a call, and refuses what Triton refuses.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tests.triton.configs import Config

TYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_INT64": np.int64, "TYPE_INT32": np.int32}
Arrays = dict[str, NDArray[Any]]


class Engine:
    """A model of a repository.

    Attributes:
        sequences: the states of each that has begun and not ended.
        calls: how many it answered.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        assert config["backend"] == "onnxruntime"
        options = ort.SessionOptions()
        for library in config.get("model_operations", {}).get("op_library_filename", []):
            options.register_custom_ops_library(library)
        self._session = ort.InferenceSession(str(folder / "1" / config["default_model_filename"]), options)
        self._inputs = {spec["name"]: spec for spec in config["input"]}
        self._outputs = [spec["name"] for spec in config["output"]]
        self._states = config["sequence_batching"].get("state", [])
        self._most = config["sequence_batching"]["oldest"]["max_candidate_sequences"]
        self.sequences: dict[int, Arrays] = {}
        self.calls = 0
        self._lock = threading.Lock()
        names = {each.name for each in self._session.get_inputs()}
        assert names == {*self._inputs, *(state["input_name"] for state in self._states)}

    def infer(self, inputs: Arrays, number: int, *, starts: bool, ends: bool) -> Arrays:
        """Outputs of a batch of one.

        Raises:
            ValueError: Triton would not run it.
        """
        with self._lock:
            if not starts and number not in self.sequences:
                raise ValueError(f"sequence {number} must specify the START flag on the first request")
            if starts:
                self.sequences[number] = {state["input_name"]: _zeros(state) for state in self._states}
            if len(self.sequences) > self._most:
                raise ValueError("more sequences than candidates")
            fed = {name: _fed(self._inputs[name], value) for name, value in inputs.items()}
            wanted = [*self._outputs, *(state["output_name"] for state in self._states)]
            given = dict(zip(wanted, self._session.run(wanted, fed | self.sequences[number]), strict=True))
            self.sequences[number] = {state["input_name"]: given[state["output_name"]] for state in self._states}
            if ends:
                del self.sequences[number]
            self.calls += 1
            return {name: given[name] for name in self._outputs}


def _zeros(state: Config) -> NDArray[Any]:
    (initial,) = state["initial_state"]
    assert initial["zero_data"] and (initial["dims"], initial["data_type"]) == (state["dims"], state["data_type"])
    return np.zeros([1, *map(int, initial["dims"])], TYPES[initial["data_type"]])


def _fed(spec: Config, value: NDArray[Any]) -> NDArray[Any]:
    dims = [int(size) for size in spec["dims"]]
    fits = value.ndim == len(dims) + 1 and all(d in (-1, n) for d, n in zip(dims, value.shape[1:], strict=True))
    if value.dtype != TYPES[spec["data_type"]] or not fits:
        raise ValueError(f"input {spec['name']}: {value.dtype} {value.shape}, expected {spec['data_type']} {dims}")
    return value.reshape(value.shape[0], *spec["reshape"].get("shape", [])) if "reshape" in spec else value
