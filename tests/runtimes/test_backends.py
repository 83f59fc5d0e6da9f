"""Backends by name: their options, what they need, and one that another package brings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqexport
from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import ORT, TORCH, TRT, backend_named, backends, check_taken
from tests.conftest import Exported

OURS = """
import numpy as np
from seqexport.runtimes.backends import Backend
from seqexport.runtimes.base import Runner, Session


class Constant(Runner):
    backend = "constant"

    def __init__(self, bundle, *, threads=1):
        super().__init__(bundle)
        self.threads = threads

    @property
    def description(self):
        return f"always token {self.threads}"

    def session(self, batch=1, capacity=None):
        return ConstantSession(self, batch, capacity or 16)

    def _close(self):
        pass


class ConstantSession(Session):
    def _read_state(self, spec):
        return np.zeros(spec.sizes(self.batch, self.position), np.float32)

    def _write(self, states, lengths):
        pass

    def _close(self):
        pass

    def _run(self, tokens, seq_lens):
        logits = np.zeros((self.batch, 1, self.manifest.vocab_size), np.float32)
        logits[..., self.runner.threads] = 1
        return logits


constant = Backend("constant", "A constant", ("numpy",), "", "their_backend:Constant", frozenset({"threads"}))
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package on the path whose entry point brings a backend."""
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[seqexport.backends]\nconstant = their_backend:constant\n")
    (tmp_path / "their_backend.py").write_text(OURS)
    monkeypatch.syspath_prepend(tmp_path)
    backends.cache_clear()
    yield
    backends.cache_clear()
    sys.modules.pop("their_backend", None)


def test_another_packages_backend_runs_like_ours(theirs: None, exported: Exported) -> None:
    assert list(backends()) == ["torch", "ort", "trt", "constant"]
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="all")
    with seqexport.load(bundle, "constant", threads=65) as model:
        assert model.generate("x", max_new_tokens=3) == [model.tokenizer.decode([65]) * 3]


def test_an_entry_that_is_no_backend_is_named(theirs: None, tmp_path: Path) -> None:
    (tmp_path / "their_backend.py").write_text("constant = 1")
    with pytest.raises(UserError, match=r"'constant' of another package \(their_backend:constant\): expected a B"):
        backends()


def test_an_entry_that_cannot_be_imported_is_named(theirs: None, tmp_path: Path) -> None:
    (tmp_path / "their_backend.py").write_text("import nothing_of_that_name")
    with pytest.raises(UserError, match="cannot be loaded: No module named 'nothing_of_that_name'"):
        backends()


def test_unknown() -> None:
    with pytest.raises(UserError, match="`backend` 'tpu': expected one of torch, ort, trt"):
        backend_named("tpu")


@pytest.mark.parametrize(
    ("option", "backend", "takes"),
    [
        ({"device": "cuda"}, TRT, "none"),
        ({"plugins": False}, TORCH, "`device`, `original`, `threads`, `trust_remote_code`"),
        ({"original": "x"}, ORT, "`device`, `plugins`, `threads`"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_options_of_another_backend_are_refused_by_name(option: dict[str, object], backend: object, takes: str) -> None:
    name = next(iter(option))
    with pytest.raises(UserError) as refused:
        check_taken(option, [backend])  # type: ignore[list-item]
    assert str(refused.value) == f"`{name}`: not an option of backend {backend.name}; those are: {takes}"  # type: ignore[attr-defined]


def test_an_option_that_was_not_given_is_no_option() -> None:
    check_taken({"device": None, "plugins": None}, [TRT])


def test_what_a_backend_lacks_is_said(monkeypatch: pytest.MonkeyPatch, exported: Exported) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "seqexport.runtimes.ort.runner", raising=False)
    with pytest.raises(UserError, match="backend 'ort' needs"):
        ORT.open(exported("preset:mamba", target="ort", dtype="float32", logits="all"))


def test_threads_of_a_server_sleep_between_two_calls(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    for opened, spins in ((ORT.open, "1"), (ORT.open_for_server, "0")):
        with opened(bundle, threads=1) as runner:
            options = runner.engine.get_session_options()  # type: ignore[attr-defined]
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
