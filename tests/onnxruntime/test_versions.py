"""The library in the oldest ONNX Runtime that it is for, in an interpreter that SEQEXPORT_ORT_1_18 names."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tests.conftest import Exported, leave_out
from tests.onnxruntime.library_ops import one_node, session_options
from tests.ops import (
    test_causal_attention,
    test_causal_conv1d,
    test_embedding,
    test_last_token,
    test_linear,
    test_rms_norm,
    test_rotary_embedding,
    test_selective_scan,
)

Compare = Callable[..., None]
PYTHON = "SEQEXPORT_ORT_1_18"
CALLS = {
    "SelectiveScan": (test_selective_scan.make(length=70, D=33, without=("D", "seq_lens")), {"dt_softplus": 1}),
    "CausalConv1d": (test_causal_conv1d.make(length=70, D=33, without=("bias",)), {"activation": "silu"}),
    "CausalAttention": (test_causal_attention.make(length=70, S=80, past_lens=[3, 9]), {"window": 20}),
    "Embedding": (test_embedding.make(length=70), {}),
    "LastToken": (test_last_token.make(seq_lens=[5, 0, 2]), {}),
    "Linear": (test_linear.make(length=70, features=(24, 8), biases=(False, True)), {}),
    "RmsNorm": (test_rms_norm.make(length=70, dtype=torch.float16, wide=1), {"wide": 1}),
    "RotaryQueryKey": (test_rotary_embedding.make(length=70, R=8), {}),
}


@pytest.fixture
def old(native_library: Callable[[str], Path], tmp_path: Path) -> Compare:
    """Runs a model there and here, both with the library, and compares."""
    library = native_library("onnxruntime")
    python = os.environ.get(PYTHON)
    if python is None or subprocess.run([python, "-c", "import onnxruntime"], capture_output=True).returncode:
        leave_out(f"tests of libseqexport_ort.so in ONNX Runtime 1.18 left out: {PYTHON} names no Python that has it")

    def compare(model: bytes, inputs: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
        (tmp_path / "model.onnx").write_bytes(model)
        np.savez(tmp_path / "inputs.npz", **inputs)
        script = Path(__file__).with_name("old_runtime.py")
        files = [library, tmp_path / "model.onnx", tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
        done = subprocess.run([python, script, *files], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1.18.")
        session = ort.InferenceSession(model, session_options(library), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        results = np.load(tmp_path / "outputs.npz")
        for name, here in zip(names, session.run(None, inputs), strict=True):
            np.testing.assert_allclose(results[name], here, rtol=tolerance, atol=tolerance)

    return compare


@pytest.mark.parametrize("name", CALLS)
def test_an_op(old: Compare, name: str) -> None:
    values, attributes = CALLS[name]
    given = {k: v for k, v in values.items() if v is not None}
    model = one_node(name, tuple((k, v.dtype, v.dim()) for k, v in given.items()), attributes)
    old(model, {k: v.numpy() for k, v in given.items()})


@pytest.mark.parametrize("model", ["preset:mamba", "preset:transformer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_that_also_has_function_bodies(exported: Exported, old: Compare, model: str, dtype: str) -> None:
    bundle = exported(model, target="portable", dtype=dtype, logits="all")
    inputs = {
        spec.name: np.zeros([{"batch": 2, "seq": 9, "max_len": 16}.get(a, a) for a in spec.shape], spec.dtype)
        for spec in bundle.contract.inputs
    }
    inputs["input_ids"] += np.arange(9) * 7
    inputs["seq_lens"] += np.array([9, 4], np.int32)
    old(onnx.load(bundle.model).SerializeToString(), inputs, 1e-4 if dtype == "float32" else 2e-2)
