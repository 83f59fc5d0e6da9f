"""Verification from the recorded reference, and thousands of decode steps against the float64 original."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save
from transformers import PreTrainedModel

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, Session, States
from seqexport.runtimes.bundle import CONTRACT, MODEL, REFERENCE, Bundle, open_bundle, sha256, write_contract
from seqexport.runtimes.comparison.reference import read_reference, relative_error
from seqexport.runtimes.comparison.verify import CHUNKS, Check, verify
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.pytorch.runner import TorchRunner
from tests.conftest import Exported
from tests.runtimes.ort_attention import runnable

STEPS, CHECKPOINTS = 2000, (500, 1000, 2000)


def checks_of(bundle: Bundle) -> list[Check]:
    with OrtRunner(bundle, threads=1) as runner:
        return list(verify(runner, read_reference(bundle.reference)))


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Bundle:
    bundle = runnable(exported("llama", target="ort", logits="last"))
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "bundle"))


def reseal(bundle: Bundle) -> Bundle:
    files = {name: sha256(bundle.path / name) for name in bundle.contract.files}
    write_contract(bundle.path, msgspec.structs.replace(bundle.contract, files=files))
    return open_bundle(bundle.path)


def rewrite_reference(bundle: Bundle, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Bundle:
    """Change the tensors or the errors of a recorded reference."""
    file = bundle.path / REFERENCE
    with safe_open(file, "numpy") as opened:
        errors = json.loads(opened.metadata()["torch_errors"])
    tensors = load_file(file)
    change(tensors, errors)
    file.write_bytes(save(tensors, metadata={"torch_errors": json.dumps(errors)}))
    return reseal(bundle)


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("name", ["mamba", "llama", "jamba", "irregular"])
def test_exports_hold_their_bounds(exported: Exported, name: str, target: str) -> None:
    checks = checks_of(runnable(exported(name, target=target, logits="last")))
    assert [check for check in checks if not check.passed] == []
    kinds = {check.name.split(",")[0] for check in checks}
    assert {"logits after prefill", "logits along decode"} < kinds
    assert len(checks) == len(kinds) * len(CHUNKS)


def test_longrope_writes_its_own_frequencies_back_and_is_recorded(exported: Exported) -> None:
    assert all(check.passed for check in checks_of(exported("phi3_longrope", target="portable", logits="all")))


def test_a_cache_shorter_than_the_recorded_steps_is_verified(exported: Exported) -> None:
    bundle = runnable(exported("llama", target="ort", logits="last", max_len=4))
    assert bundle.contract.capacity == 4
    assert all(check.passed for check in checks_of(bundle))


def test_a_changed_weight_is_out_of_bounds(copy: Bundle) -> None:
    data = copy.path / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[len(weights) // 2 :] *= 1.0001
    weights.tofile(data)
    failed = [check for check in checks_of(reseal(copy)) if not check.passed]
    assert {"logits after prefill, prefill whole", "logits along decode, prefill in chunks of 1"} <= {
        check.name for check in failed
    }
    assert all(check.error > check.allowed for check in failed)


def test_an_answer_that_is_not_finite_is_out_of_bounds(copy: Bundle) -> None:
    data = copy.path / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[-1] = np.nan
    weights.tofile(data)
    assert not all(check.passed for check in checks_of(reseal(copy)))


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
        read_reference(copy.reference)
    assert "\n" not in str(error.value)


def test_a_graph_with_another_interface_is_named(copy: Bundle) -> None:
    model = ir.load(copy.model)
    model.graph.inputs[0].name = "tokens"
    ir.save(model, copy.model, external_data=f"{MODEL}.data")
    with pytest.raises(UserError, match=rf"{MODEL}: its inputs are not those that {CONTRACT} lists \(input_ids\)"):
        OrtRunner(reseal(copy))


class Truth:
    """A shipped model's float64 answers on random tokens, and how far PyTorch itself is from them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.tokens = np.random.default_rng(0).integers(0, bundle.contract.vocab_size, STEPS)
        oracle = TorchRunner(bundle, self._model(), arithmetic="float64", logits="all")
        self.states: dict[int, States] = {}
        for length in CHECKPOINTS:
            with oracle.session() as session:
                self.logits = session.prefill(self.tokens[None, :length])[0]
                self.states[length] = session.read_states()
        self._own: dict[str, dict[str, float]] = {}

    def _model(self) -> PreTrainedModel:
        return load_original(self.bundle.contract.source.model.replace("preset:", PRESETS), dtype="float32")

    def own(self, device: str) -> dict[str, float]:
        """PyTorch's own errors on ``device`` in float32, without TF32: the larger of token by token and all at once.

        They differ by how a matrix product adds up. One row at a time, a sum of products is many partial sums; with
        many rows it is one long chain, as it always is in ONNX Runtime. The conv state of the first layer, before
        which there is none of our ops, has 1.1e-7 the one way and 2.0e-7 the other, and 2.0e-7 in ONNX Runtime.
        """
        if device not in self._own:
            assert torch.get_float32_matmul_precision() == "highest"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.backends.cudnn, "allow_tf32", False)
                native = TorchRunner(self.bundle, self._model(), device=device, logits="all")
                ways = self.errors(native, [1] * STEPS), self.errors_at_once(native)
            self._own[device] = {name: max(way[name] for way in ways) for name in ways[0]}
        return self._own[device]

    def check(self, runner: Runner, sizes: list[int], device: str) -> None:
        """No error of the runner, on chunks of these sizes, is above twice PyTorch's own on the same device."""
        ours, own = self.errors(runner, sizes), self.own(device)
        assert ours.keys() == own.keys()
        assert {name: (error, own[name]) for name, error in ours.items() if error > 2 * own[name]} == {}

    def errors(self, runner: Runner, sizes: list[int]) -> dict[str, float]:
        """Relative errors of all logits, and of each kind of state, root mean square over layers and checkpoints."""
        found: dict[str, list[float]] = defaultdict(list)
        rows: list[NDArray[np.float32]] = []
        with runner.session(1, STEPS) as session:
            for part in np.split(self.tokens, np.cumsum(sizes)[:-1]):
                rows += list(session.prefill(part[None])[0])
                if (length := len(rows)) in CHECKPOINTS:
                    self._compare(session, length, found)
        return self._summed(found, np.stack(rows))

    def errors_at_once(self, runner: Runner) -> dict[str, float]:
        """The same of a runner that is given all tokens before a checkpoint in one call."""
        found: dict[str, list[float]] = defaultdict(list)
        for length in CHECKPOINTS:
            with runner.session(1, STEPS) as session:
                logits = session.prefill(self.tokens[None, :length])[0]
                self._compare(session, length, found)
        return self._summed(found, logits)

    def _compare(self, session: Session, length: int, found: dict[str, list[float]]) -> None:
        for name, state in session.read_states().items():
            found[name.rsplit(".", 1)[-1]].append(relative_error(state, self.states[length][name]))

    def _summed(self, found: dict[str, list[float]], logits: NDArray[np.float32]) -> dict[str, float]:
        found["logits"] = [relative_error(logits, self.logits)]
        return {name: float(np.sqrt(np.mean(np.square(errors)))) for name, errors in found.items()}


PRESETS = str(Path(__file__).parents[2] / "exporter" / "presets") + "/"


@pytest.fixture(scope="module", params=["mamba", "transformer"])
def truth(request: pytest.FixtureRequest, exported: Exported) -> tuple[str, Truth]:
    name = f"preset:{request.param}"
    return name, Truth(exported(name, target="portable", dtype="float32", logits="all"))


@pytest.mark.parametrize("target", ["portable", "ort"])
@pytest.mark.parametrize("chunk", [1, 7, 64, STEPS])
def test_2000_tokens_stay_as_accurate_as_pytorch(
    exported: Exported, truth: tuple[str, Truth], target: str, chunk: int
) -> None:
    name, true = truth
    sizes = [min(chunk, STEPS - start) for start in range(0, STEPS, chunk)]
    bundle = runnable(exported(name, target=target, dtype="float32", logits="all"))
    with OrtRunner(bundle, threads=2) as runner:
        true.check(runner, sizes, "cpu")
