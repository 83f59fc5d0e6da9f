"""The oldest ONNX Runtime that bundles and the library are for, one in between, and the newest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from seqexport.runtimes.comparison.reference import read_reference
from seqexport.runtimes.comparison.verify import verify
from tests.conftest import Exported
from tests.hub import in_hub_cache
from tests.onnxruntime.elsewhere import MIDDLE, NEWEST, OLDEST, Elsewhere, ElsewhereRunner
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
    test_top_k_router,
)

Compare = Callable[..., None]
CALLS = {
    "SelectiveScan": (test_selective_scan.make(length=70, D=33, without=("D", "seq_lens")), {"dt_softplus": 1}),
    "CausalConv1d": (test_causal_conv1d.make(length=70, D=33, without=("bias",)), {"activation": "silu"}),
    "CausalAttention": (test_causal_attention.make(length=70, S=80, past_lens=[3, 9]), {"window": 20}),
    "Embedding": (test_embedding.make(length=70), {}),
    "LastToken": (test_last_token.make(seq_lens=[5, 0, 2]), {}),
    "Linear": (test_linear.make(length=70, features=(24, 8), biases=(False, True)), {}),
    "RmsNorm": (test_rms_norm.make(length=70, dtype=torch.float16, wide=1), {"wide": 1}),
    "RotaryQueryKey": (test_rotary_embedding.make(length=70, R=8), {}),
    "TopKRouter": (test_top_k_router.make(length=70, E=24), {"k": 5, "score": "sigmoid", "normalised": 1}),
}


@pytest.fixture
def old(native_library: Callable[[str], Path], tmp_path: Path) -> Compare:
    """Runs a model in the oldest ONNX Runtime and here, both with the library, and compares."""
    library = native_library("onnxruntime")

    def compare(model: bytes, inputs: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
        (tmp_path / "model.onnx").write_bytes(model)
        there = Elsewhere(OLDEST, tmp_path / "model.onnx", tmp_path, library)
        assert there.runtime.startswith("1.18.")
        results = there.run(inputs)
        there.close()
        session = ort.InferenceSession(model, session_options(library), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        for name, here in zip(names, session.run(None, inputs), strict=True):
            np.testing.assert_allclose(results[name], here, rtol=tolerance, atol=tolerance)

    return compare


@pytest.mark.parametrize("name", CALLS)
def test_an_op(old: Compare, name: str) -> None:
    values, attributes = CALLS[name]
    given = {k: v for k, v in values.items() if v is not None}
    model = one_node(name, tuple((k, v.dtype, v.dim()) for k, v in given.items()), attributes)
    old(model, {k: v.numpy() for k, v in given.items()})


@pytest.mark.parametrize("model", ["preset:mamba", "preset:mamba2", "preset:transformer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_that_also_has_function_bodies(exported: Exported, old: Compare, model: str, dtype: str) -> None:
    bundle = exported(model, target="portable", dtype=dtype, logits="all")
    inputs = {
        spec.name: np.zeros([{"batch": 2, "seq": 9, "max_len": 16}.get(a, a) for a in spec.shape], spec.dtype)
        for spec in bundle.manifest.inputs
    }
    inputs["input_ids"] += np.arange(9) * 7
    inputs["seq_lens"] += np.array([9, 4], np.int32)
    old(onnx.load(bundle.model).SerializeToString(), inputs, 1e-4 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("version", [OLDEST, MIDDLE, NEWEST])
@pytest.mark.parametrize("name", ["gemma2", "qwen2", "cohere2", "jamba", "mamba2"])
def test_function_bodies_of_layers_that_differ_are_as_accurate_as_pytorch(
    exported: Exported, name: str, version: str, tmp_path: Path
) -> None:
    bundle = exported(name, target="portable", logits="all", max_len=96)
    with ElsewhereRunner(bundle, version, tmp_path) as runner:
        worse = [check for check in verify(runner, read_reference(bundle)) if not check.passed]
    assert worse == []


@pytest.mark.parametrize("version", [OLDEST, MIDDLE, NEWEST])
def test_a_bundle_in_the_hubs_cache_opens(exported: Exported, version: str, tmp_path: Path) -> None:
    cached = in_hub_cache(exported("gemma2", target="portable", logits="all", max_len=96), tmp_path)
    with ElsewhereRunner(cached, version, tmp_path) as runner:
        assert [check for check in verify(runner, read_reference(cached)) if not check.passed] == []
