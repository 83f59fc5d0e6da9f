"""The likeliest token is that of the values as float32, whatever dtype they come in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from seqexport.runtimes import cores
from seqexport.runtimes.logits import likeliest
from seqexport.runtimes.storage import own, storage, widened

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32]


def values(kind: str) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    found = random.standard_normal((21, 63)).astype(np.float32)
    if kind == "negative":
        return -np.abs(found) - 1
    if kind == "zeros":
        return np.where(found > 0, np.float32(0), np.float32(-0.0)) * (found > -1) - (found <= -1)
    if kind == "equal":
        return np.round(found)
    if kind == "small":
        return found * np.float32(1e-7)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["normal", "negative", "zeros", "equal", "small"])
def test_it_is_the_first_of_the_largest(kind: str, dtype: Any) -> None:
    logits = values(kind).astype(dtype)
    tokens, finite = likeliest(logits)
    np.testing.assert_array_equal(tokens, logits.astype(np.float32).argmax(1))
    assert finite.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_in_its_row_alone(bad: float, dtype: Any) -> None:
    logits = values("normal").astype(dtype)
    logits[3, 62] = bad
    tokens, finite = likeliest(logits)
    assert finite.tolist() == [row != 3 for row in range(21)]
    np.testing.assert_array_equal(np.delete(tokens, 3), np.delete(logits.astype(np.float32).argmax(1), 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_cores_find_what_one_does(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = values("normal").astype(dtype)
    alone = likeliest(logits), widened(logits)
    monkeypatch.setattr(cores, "LARGE", 64)
    monkeypatch.setattr(cores, "_cores", lambda: 4)
    for found, expected in zip((*likeliest(logits), widened(logits)), (*alone[0], alone[1]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_one_core_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_cores", lambda: 2)

    def work(rows: slice) -> None:
        if rows.start:
            raise ValueError(rows)

    with pytest.raises(ValueError, match="slice"):
        cores.by_rows(work, 2, 2 * cores.LARGE)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_an_own_copy_changes_nothing_of_what_it_is_from(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    stored = values("normal").astype(dtype).view(storage(name))
    copy = own(stored, name)
    assert copy.dtype == dtype
    np.testing.assert_array_equal(copy.view(stored.dtype), stored)
    copy[:] = 0
    assert stored.any()
