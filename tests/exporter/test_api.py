"""``seqexport.export``, ``load``, ``verify`` and ``compare`` as a program calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import seqexport
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from tests.conftest import Exported, Saved
from tests.exporter.families import EXPORTED, build


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> seqexport.Bundle:
    return exported("preset:mamba", target="ort", dtype="float32", logits="all")


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_a_loaded_model_exports_and_stays_as_it_is(name: str, checkpoint: Saved, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint(name))
    model.train()
    before, attention = state(model), model.config._attn_implementation
    bundle = seqexport.export(model, tmp_path / "out", target="ort")
    assert all(check.passed for check in seqexport.verify(bundle))
    assert bundle.manifest.source.model == f"memory:{type(model).__name__}"
    assert model.training and model.config._attn_implementation == attention
    after = state(model)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_weights_changed_in_memory_are_those_that_are_exported(checkpoint: Saved, tmp_path: Path) -> None:
    model = load_original(str(checkpoint("mamba")))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    bundle = seqexport.export(model, tmp_path / "out")
    assert all(check.passed for check in seqexport.verify(bundle))
    ids = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        expected = model(ids).logits[:, -1].numpy()
    with seqexport.load(bundle) as ours, ours.session() as session:
        assert abs(session.prefill(ids.numpy())[:, -1] - expected).max() < 1e-4


def test_a_loaded_model_in_another_dtype_is_what_loading_in_it_gives(checkpoint: Saved, tmp_path: Path) -> None:
    model = load_original(str(checkpoint("llama")), dtype="float32")
    bundle = seqexport.export(model, tmp_path / "out", dtype="fp16", target="ort")
    assert (bundle.manifest.dtype, model.dtype) == ("float16", torch.float32)
    assert all(check.passed for check in seqexport.verify(bundle))


def test_a_model_from_memory_has_no_original_to_load(tmp_path: Path) -> None:
    with quiet():
        model = build(EXPORTED["mamba"])
    notes: list[str] = []
    bundle = seqexport.export(model, tmp_path / "out", note=notes.append)
    assert any("without a tokenizer's files" in said and "`tokenizer`" in said for said in notes)
    with pytest.raises(seqexport.Error, match=r"exported from a MambaForCausalLM in memory: say where .* `original`"):
        seqexport.load(bundle, "torch")


def test_a_tokenizer_of_ones_own(tmp_path: Path, bundle: seqexport.Bundle) -> None:
    with quiet():
        model = build(EXPORTED["mamba"])
    ours = seqexport.export(model, tmp_path / "out", tokenizer=bundle.path)
    assert ours.tokenizer is not None
    with pytest.raises(seqexport.Error, match=r"`tokenizer` .*nowhere: expected a folder with a tokenizer\.json"):
        seqexport.export(model, tmp_path / "other", tokenizer=tmp_path / "nowhere")
    assert not (tmp_path / "other").exists()


class Quantised:
    """What transformers leaves on a model that it has quantised."""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda model: setattr(model, "hf_quantizer", Quantised()), "`model`: MambaForCausalLM is quantised"),
        (lambda model: model.to("meta"), "has weights on the meta device"),
        (
            lambda model: model.double(),
            "is torch.float64; expected .*: choose one with `dtype`",
        ),
    ],
    ids=["quantised", "meta", "float64"],
)
def test_loaded_models_that_cannot_be_exported(change: Any, expected: str, tmp_path: Path) -> None:
    with quiet():
        model = build(EXPORTED["mamba"])
    change(model)
    with pytest.raises(seqexport.Error, match=expected):
        seqexport.export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(seqexport.Error, match=r"`model`: expected a folder, .* not a torch\.nn\..*Linear"):
        seqexport.export(torch.nn.Linear(2, 2), tmp_path / "out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"opset": 17}, "`opset` 17: expected 18 to 23"),
        ({"max_len": 0}, "`max_len` 0: expected at least 1"),
        ({"dtype": "int8"}, "`dtype` 'int8': expected one of float32, float16, bfloat16"),
        ({"target": "tpu"}, "`target` 'tpu': expected one of portable, ort, tensorrt"),
        ({"logits": "some"}, "`logits` 'some': expected one of last, all"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(checkpoint: Saved, tmp_path: Path, options: Any, expected: str) -> None:
    with pytest.raises(seqexport.Error) as refused:
        seqexport.export(checkpoint("llama"), tmp_path / "out", **options)
    assert str(refused.value).startswith(expected)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tpu", ""])
def test_unknown_backends(bundle: seqexport.Bundle, name: str) -> None:
    for call in (seqexport.load, seqexport.verify, lambda bundle, name: seqexport.compare([bundle], [name])):
        with pytest.raises(seqexport.Error, match=f"`backend` '{name}': expected one of torch, ort, trt"):
            call(bundle, name)


def test_options_of_another_backend(bundle: seqexport.Bundle) -> None:
    with pytest.raises(seqexport.Error, match="`original`: not an option of backend ort"):
        seqexport.load(bundle, original="x")
    with pytest.raises(seqexport.Error, match="`plugins`: not an option of backend torch"):
        seqexport.load(bundle, "torch", plugins=False)
    with pytest.raises(seqexport.Error, match="`plugins`: not an option of backend torch"):
        seqexport.compare([bundle], ["torch"], plugins=False)


def test_compare_takes_one_to_four(bundle: seqexport.Bundle) -> None:
    for bundles in ([], [bundle] * 5):
        with pytest.raises(seqexport.Error, match=f"`bundles`: {len(bundles)}; compare one, or up to four"):
            seqexport.compare(bundles)


def test_verify_by_path_and_what_it_leaves_open(bundle: seqexport.Bundle) -> None:
    said: list[str] = []
    assert all(check.passed for check in seqexport.verify(str(bundle.path), "ort", threads=1, not_checked=said.append))
    assert said == []
