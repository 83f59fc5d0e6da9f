"""Weights that a dtype cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqexport.runtimes.pytorch.checkpoint import load_original
from tests.runtimes.checkpoint.edits import edit, edit_weights, refusal

EMBEDDING = "model.embed_tokens.weight"


def set_row(weights: dict[str, torch.Tensor], value: float, name: str = EMBEDDING) -> None:
    weights[name][..., -1] = value


@pytest.mark.parametrize(
    ("dtype", "value", "limit", "advice"),
    [
        ("float16", 7e4, "ends at 65504", "bf16 or fp32"),
        ("float16", -7e4, "ends at 65504", "bf16 or fp32"),
        ("bfloat16", 3.4e38, "ends at 3.38953e+38", "fp32"),
    ],
)
def test_a_weight_beyond_the_dtype_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str], dtype: str, value: float, limit: str, advice: str
) -> None:
    edit_weights(copy, lambda weights: set_row(weights, value))
    line = refusal(copy, capfd, dtype=dtype)
    what = f"{EMBEDDING} has 31 of 744 values, the largest {value:.6g} at [0, 23], beyond {dtype}, which {limit}"
    assert f"{copy}: {what}; export in {advice}" in line
    assert "`clamp_weights=True`" in line
    assert load_original(str(copy), dtype="float32").dtype == torch.float32


def test_a_float64_weight_beyond_float32_is_named(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def widen(weights: dict[str, torch.Tensor]) -> None:
        weights[EMBEDDING] = weights[EMBEDDING].double()
        set_row(weights, 1e39)

    edit_weights(copy, widen)
    line = refusal(copy, capfd, dtype="float32")
    assert "the largest 1e+39 at [0, 23], beyond float32" in line
    assert "export in" not in line


def test_weights_beyond_the_dtype_are_clamped_where_that_is_asked_for(copy: Path) -> None:
    def grow(weights: dict[str, torch.Tensor]) -> None:
        weights[EMBEDDING][:, 0], weights[EMBEDDING][:, 1] = 7e4, -1e9
        weights["model.norm.weight"][3] = 65505.0  # rounds to 65504: not beyond

    edit_weights(copy, grow)
    clamped: list[str] = []
    model = load_original(str(copy), dtype="float16", clamped=clamped)
    assert clamped == [EMBEDDING]
    table = model.get_input_embeddings().weight
    assert set(table[:, 0].tolist()) == {65504.0}
    assert set(table[:, 1].tolist()) == {-65504.0}
    sound = load_file(copy / "model.safetensors")[EMBEDDING][:, 2:].half()
    assert torch.equal(table[:, 2:], sound)
    assert load_original(str(copy), dtype="float32", clamped=clamped).dtype == torch.float32
    assert clamped == [EMBEDDING]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_weight_is_named_once(copy: Path, capfd: pytest.CaptureFixture[str], tied: bool) -> None:
    def grow(weights: dict[str, torch.Tensor]) -> None:
        set_row(weights, 7e4)
        if tied:
            del weights["lm_head.weight"]
        else:
            set_row(weights, 8e4, "lm_head.weight")

    edit(copy, tie_word_embeddings=tied)
    edit_weights(copy, grow)
    line = refusal(copy, capfd, dtype="float16")
    assert ("and 1 more" in line) == (not tied)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clamped", [None, []], ids=["refuse", "clamp"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_weight_that_is_not_finite_in_the_checkpoint_is_named(
    copy: Path, capfd: pytest.CaptureFixture[str], value: float, clamped: list[str] | None, dtype: str
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(copy, lambda weights: set_row(weights, value, name))
    line = refusal(copy, capfd, dtype=dtype, clamped=clamped)
    kind = "NaN" if value != value else "infinite"
    assert (
        f"model.layers.1.mlp.up_proj.weight is not finite in the checkpoint itself: 40 of 960 values ({kind})" in line
    )
