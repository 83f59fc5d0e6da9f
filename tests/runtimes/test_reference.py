"""References that are damaged, lack something, or claim what is not so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import REFERENCE, Bundle, open_bundle
from seqexport.runtimes.comparison.accuracy import CEILING
from seqexport.runtimes.comparison.reference import (
    read_reference,
)
from tests.conftest import Exported
from tests.runtimes.ort_attention import runnable
from tests.runtimes.references import checks_of, rewrite_reference


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Bundle:
    bundle = runnable(exported("llama", target="ort", logits="last"))
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "bundle"))


@pytest.mark.parametrize("quantity", ["logits", "past_key_values.0.key"])
def test_what_was_not_finite_in_pytorch_is_out_of_bounds(copy: Bundle, quantity: str) -> None:
    """As an older seqexport recorded it."""
    changed = rewrite_reference(copy, lambda tensors, errors: errors.update({quantity: float("inf")}))
    failed = [check for check in checks_of(changed) if not check.passed]
    assert failed
    assert {(check.allowed, check.not_finite) for check in failed} == {(None, f"{quantity} of PyTorch's own run")}


@pytest.mark.parametrize("lost", ["answer.prefill.logits", "answer.end.past_key_values.1.key", "tokens", "seq_lens"])
def test_a_reference_that_lacks_a_tensor_is_named(copy: Bundle, lost: str) -> None:
    with pytest.raises(UserError, match=f"{REFERENCE}.*{lost.removeprefix('answer.')}.*export the model again"):
        checks_of(rewrite_reference(copy, lambda tensors, errors: tensors.pop(lost)))


@pytest.mark.parametrize("change", [lambda e: e.pop("logits"), lambda e: e.update(logits="small")], ids=["no", "odd"])
def test_a_reference_that_lacks_an_error_is_named(copy: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(UserError, match=f"{REFERENCE}.*export the model again"):
        checks_of(rewrite_reference(copy, lambda tensors, errors: change(errors)))


@pytest.mark.parametrize("content", [b"", b"nonsense", save({"tokens": np.zeros(1)})], ids=["empty", "odd", "foreign"])
def test_a_damaged_reference_is_named(copy: Bundle, content: bytes) -> None:
    copy.reference.write_bytes(content)
    with pytest.raises(UserError, match=f"{REFERENCE} is damaged.*export the model again") as error:
        read_reference(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [1e300, float("inf"), float("nan")])
def test_what_a_reference_says_of_pytorch_s_error_is_not_believed_beyond_a_ceiling(copy: Bundle, error: float) -> None:
    def change(tensors: dict[str, Any], errors: dict[str, Any]) -> None:
        tensors.update({name: -x for name, x in tensors.items() if name.startswith("answer.")})
        errors.update(dict.fromkeys(errors, error))

    checks = checks_of(rewrite_reference(copy, change))
    assert checks
    assert not any(check.passed for check in checks)
    assert {check.allowed for check in checks} == {CEILING[copy.manifest.dtype] if error == 1e300 else None}


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "rank": lambda t: t.update({"answer.prefill.logits": t["answer.prefill.logits"][0]}),
    "rows": lambda t: t.update({"answer.step0.logits": np.repeat(t["answer.step0.logits"], 3, 0)}),
    "state": lambda t: t.update({n: x[..., :1] for n, x in t.items() if n.startswith("answer.end.")}),
    "integers": lambda t: t.update({"answer.prefill.logits": t["answer.prefill.logits"].astype(np.int32)}),
    "flat tokens": lambda t: t.update(tokens=t["tokens"].reshape(-1)),
    "no rows": lambda t: t.update(tokens=t["tokens"][:0], seq_lens=t["seq_lens"][:0], next_tokens=t["next_tokens"][:0]),
    "no tokens": lambda t: t.update(tokens=t["tokens"][:, :0]),
    "many tokens": lambda t: t.update(tokens=np.zeros((2, 200_000), np.int64)),
    "other tokens": lambda t: t.update(tokens=t["tokens"] + 10**6),
    "lengths": lambda t: t.update(seq_lens=t["seq_lens"] * 100),
    "negative lengths": lambda t: t.update(seq_lens=-t["seq_lens"]),
    "more sequences": lambda t: t.update(seq_lens=np.ones(99, np.int32)),
    "nothing": lambda t: t.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_reference_of_other_shapes_is_damaged(copy: Bundle, change: str) -> None:
    other = rewrite_reference(copy, lambda tensors, errors: CHANGES[change](tensors))
    with pytest.raises(UserError, match=f"{REFERENCE} is damaged .*export the model again") as refused:
        read_reference(other)
    assert "\n" not in str(refused.value)
