"""``config.pbtxt`` of the two models: the engine, whose states Triton keeps, and the front, which speaks text.

The engine's sequences are Triton's sequences, and each of our states is an implicit one that begins as zeros. No
control input is needed: where a sequence begins, its states do. Scheduling is by age: the direct one runs empty slots
along with whatever their memory holds, such as tokens outside the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Manifest, StateSpec, TensorSpec
from seqexport.runtimes.triton.text_format import Enum, Message, Value

Device = Literal["cpu", "cuda"]
TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int32": "TYPE_INT32",
         "int64": "TYPE_INT64"}  # fmt: skip
KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}
IDLE_SECONDS = 60
"""After which Triton takes a sequence that has not ended for forgotten."""

FRONT_INPUTS = (
    ("text_input", "TYPE_STRING", 1), ("input_ids", "TYPE_INT64", -1), ("max_tokens", "TYPE_INT32", 1),
    ("temperature", "TYPE_FP32", 1), ("top_k", "TYPE_INT32", 1), ("top_p", "TYPE_FP32", 1),
    ("random_seed", "TYPE_UINT64", 1), ("stop_words", "TYPE_STRING", -1), ("stream", "TYPE_BOOL", 1),
)  # fmt: skip
"""As Triton's own vLLM and TensorRT-LLM back ends call them; each may be left out."""


@dataclass(frozen=True)
class EngineFile:
    """What Triton runs as the engine.

    Attributes:
        backend: ``onnxruntime`` or ``tensorrt``.
        file: of the model, in its version's folder.
        ops: the path that Triton sees of the library of our ops for ONNX Runtime; None: the function bodies run.
        profiles: how many optimisation profiles a TensorRT engine has.
    """

    backend: Literal["onnxruntime", "tensorrt"]
    file: str
    ops: str | None = None
    profiles: int = 0


@dataclass(frozen=True)
class Sizes:
    """What the engine takes: sequences together, tokens of each, tokens in one call."""

    max_batch: int
    max_tokens: int
    chunk: int


def engine_config(manifest: Manifest, name: str, runs: EngineFile, sizes: Sizes, device: Device) -> Message:
    """Of the engine.

    Raises:
        UserError: an input, output or state does not begin with the batch.
    """
    group: dict[str, Value] = {"count": 1, "kind": Enum(KINDS[device])}
    if runs.profiles:
        group["profile"] = [str(index) for index in range(runs.profiles)]
    return {
        "name": name,
        "backend": runs.backend,
        "default_model_filename": runs.file,
        "max_batch_size": sizes.max_batch,
        "input": [_tensor(spec) for spec in manifest.inputs if spec.role != "past"],
        "output": [_tensor(spec) for spec in manifest.outputs if spec.role != "present"],
        "sequence_batching": {
            "max_sequence_idle_microseconds": IDLE_SECONDS * 1_000_000,
            "oldest": {"max_candidate_sequences": sizes.max_batch},
            "state": [_state(spec, sizes) for spec in manifest.states],
        },
        "instance_group": [group],
        **({"model_operations": {"op_library_filename": [runs.ops]}} if runs.ops else {}),
    }


def front_config(name: str, engine: str, sizes: Sizes) -> Message:
    """Of the front, which finds what it has to know among its parameters."""
    told = {"engine": engine, "max_batch": sizes.max_batch, "max_tokens": sizes.max_tokens, "chunk": sizes.chunk}
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [
            {"name": each, "data_type": Enum(dtype), "dims": [size], "optional": True}
            for each, dtype, size in FRONT_INPUTS
        ],
        "output": [
            {"name": each, "data_type": Enum("TYPE_STRING"), "dims": [1]} for each in ("text_output", "finish_reason")
        ],
        "instance_group": [{"count": 1, "kind": Enum("KIND_CPU")}],
        "parameters": [{"key": key, "value": {"string_value": str(value)}} for key, value in told.items()],
    }


def _tensor(spec: TensorSpec) -> Message:
    dims = [-1 if isinstance(axis, str) else axis for axis in _after_batch(spec.name, spec.shape)]
    told: dict[str, Value] = {"name": spec.name, "data_type": Enum(TYPES[spec.dtype]), "dims": dims or [1]}
    return told if dims else {**told, "reshape": {}}  # Triton takes no dims of none, but makes them


def _state(spec: StateSpec, sizes: Sizes) -> Message:
    _after_batch(spec.past_name, spec.shape)
    dims, dtype = list(spec.sizes(1, sizes.max_tokens)[1:]), Enum(TYPES[spec.dtype])
    return {
        "input_name": spec.past_name,
        "output_name": spec.present_name,
        "data_type": dtype,
        "dims": dims,
        "initial_state": [{"name": spec.past_name, "data_type": dtype, "dims": dims, "zero_data": True}],
    }


def _after_batch(name: str, shape: Sequence[int | str]) -> Sequence[int | str]:
    if not shape or shape[0] != "batch":
        raise UserError(f"{name} of {shape}: Triton batches along a first axis `batch`, which it does not have")
    return shape[1:]
