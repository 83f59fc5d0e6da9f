"""A short text in chunks of its own length: the same answers, and as many positions as it has tokens."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.pytorch.short_chunks import short_chunks
from tests.runtimes.tiny import VOCAB, bundle_of, make


def test_a_short_text_is_not_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("mamba2", chunk_size=64)
    runner = TorchRunner(bundle_of(model, logits="all"), model, arithmetic="float64")
    tokens = np.random.default_rng(0).integers(0, VOCAB, (1, 7))
    modeling = sys.modules[type(model).__module__]
    scan, sizes = modeling.mamba2_chunk_scan, []  # type: ignore[attr-defined]

    def told(*args: Any, chunk_size: int, **kwargs: Any) -> Any:
        sizes.append(chunk_size)
        return scan(*args, chunk_size=chunk_size, **kwargs)

    monkeypatch.setattr(modeling, "mamba2_chunk_scan", told)
    whole = runner.session().prefill(tokens)
    with short_chunks(model, 7):
        short = runner.session().prefill(tokens)
    with short_chunks(model, 100):
        np.testing.assert_array_equal(runner.session().prefill(tokens), whole)
    np.testing.assert_allclose(short, whole, rtol=1e-12, atol=1e-12)
    assert sizes == [64] * 3 + [7] * 3 + [64] * 3
    assert {layer.mixer.chunk_size for layer in model.backbone.layers} == {64}
