"""The PyTorch original: transformers' model on transformers' own cache, nothing of ours in it.

Three things that transformers does not do are made up for, the first two by how it is called:

1. Ragged batches. Its families treat right padding differently, so sequences of one length run as one batch, and
   as soon as a call is ragged each sequence gets a cache of its own and runs alone.
2. Chunks. A Mamba layer that is fed more than one token starts its scan from zeros whatever state it has, so
   models with recurrent states take the first prefill whole and later chunks token by token.
3. Limited time steps. Single tokens obey Mamba-2's limit as prompts do: ``runtimes/pytorch/time_steps.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, Tokens
from seqexport.runtimes.bundle import MEMORY, Bundle
from seqexport.runtimes.manifest import Logits, StateSpec
from seqexport.runtimes.pytorch.cache import new_cache, read, tensor_dtype, write
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.pytorch.experts import experts_implementation
from seqexport.runtimes.pytorch.float64 import float64_arithmetic
from seqexport.runtimes.pytorch.outputs import to_numpy
from seqexport.runtimes.pytorch.time_steps import limited_time_steps

Arithmetic = Literal["native", "float64"]


class TorchRunner(Runner):
    """The original of a bundle.

    Args:
        model: the original, if it is loaded already; it stays as it is.
        original: where to load it from; the bundle knows where it came from.
        threads: how many CPU threads PyTorch uses, in the whole process, until this is closed.
        device: a torch device.
        arithmetic: ``float64`` computes in float64 whatever the model's dtype, and gives float64 arrays.
        logits: instead of what the manifest says.
        trust_remote_code: run the Python code that the checkpoint brings.
    """

    backend: ClassVar[str] = "torch"

    def __init__(
        self,
        bundle: Bundle,
        model: PreTrainedModel | None = None,
        *,
        original: str | None = None,
        threads: int | None = None,
        device: str = "cpu",
        arithmetic: Arithmetic = "native",
        logits: Logits | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(bundle)
        text = msgspec.structs.replace(self.manifest.text, logits=logits or self.manifest.logits)
        self.manifest = msgspec.structs.replace(self.manifest, language_model=text)
        self.arithmetic, self.device = arithmetic, torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"PyTorch {torch.__version__} finds no CUDA device here; use `device='cpu'`")
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        model = model or load_original_of(bundle, original, trust_remote_code=trust_remote_code)
        model.train(False)
        nn.Module.to(model, self.device)
        self.model: PreTrainedModel = model
        self._limited_time_steps = limited_time_steps(model)
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        self._slices_logits = "logits_to_keep" in parameters
        self._takes_positions = "position_ids" in parameters

    @property
    def description(self) -> str:
        where = f"{torch.get_num_threads()} CPU threads" if self.device.type == "cpu" else self._device_name()
        precise = ", float64 arithmetic" if self.arithmetic == "float64" else ""
        attention = "" if self.manifest.family == "mamba" else f", {self.model.config._attn_implementation} attention"
        versions = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
        return f"{versions}, {where}{attention}{precise}"

    def _device_name(self) -> str:
        return str(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else str(self.device)

    def session(self, batch: int = 1, capacity: int | None = None) -> TorchSession:
        return TorchSession(self, batch, capacity or self.manifest.capacity or 0)

    def forward(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """Feed int64[rows, L]; gives logits [rows, L, vocab], or [rows, 1, vocab] of the last tokens."""
        last = self.manifest.logits == "last"
        arguments: dict[str, Any] = {self._cache_argument: cache}
        if self._slices_logits:
            arguments["logits_to_keep"] = int(last)
        if self._takes_positions:  # as generate gives them; by itself a Bamba begins at 0 in every call
            start = cache.get_seq_length()
            arguments["position_ids"] = torch.arange(start, start + ids.shape[1], device=self.device).expand(ids.shape)
        with torch.inference_mode(), self.computing():
            logits: Tensor = self.model(
                input_ids=ids.to(self.device), use_cache=True, return_dict=True, **arguments
            ).logits
        return logits[:, -1:] if last else logits

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self._limited_time_steps(), self._wide():
            yield

    @contextmanager
    def _wide(self) -> Iterator[None]:
        if self.arithmetic == "native":
            yield
            return
        with experts_implementation(self.model, "eager"), float64_arithmetic():  # the others have no float64
            yield

    def reset_peak_device_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_device_memory(self) -> int | None:
        """Bytes of device memory at most in use since the reset; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def _close(self) -> None:
        torch.set_num_threads(self._threads_before)
        del self.model


def load_original_of(bundle: Bundle, source: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The original in the bundle's dtype, its weights clamped where the export clamped them.

    Args:
        source: where to load it from; default: where the bundle came from.

    Raises:
        UserError: it cannot be loaded.
    """
    manifest = bundle.manifest
    source = source or manifest.source.model
    if source.startswith(MEMORY):
        raise UserError(
            f"{bundle.path} was exported from a {source.removeprefix(MEMORY)} in memory: say where its checkpoint is "
            "with `original`"
        )
    return load_original(
        source,
        dtype=manifest.dtype,
        trust_remote_code=trust_remote_code,
        clamped=[] if manifest.source.clamped else None,
    )


class TorchSession(Session):
    """One cache for the whole batch while its sequences are equally long, else one each."""

    runner: TorchRunner

    def __init__(self, runner: TorchRunner, batch: int, capacity: int) -> None:
        super().__init__(runner, batch, capacity)
        self._wide = runner.arithmetic == "float64"
        self._recurrent = any(spec.kind == "recurrent_state" for spec in self.manifest.states)
        self._caches = [new_cache(runner.model)]

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        if len(self._caches) == 1 and np.unique(seq_lens).size > 1:
            self._take(self._tensors(self.read_states()), self.lengths, shared=False)
        ids = torch.from_numpy(tokens)
        length = 1 if self.manifest.logits == "last" else tokens.shape[1]
        logits = np.zeros((self.batch, length, self.manifest.vocab_size), np.float64 if self._wide else np.float32)
        for cache, rows in zip(self._caches, self._rows(), strict=True):
            if valid := int(seq_lens[rows][0]):
                new = self._feed(cache, ids[rows, :valid], fresh=not self.lengths[rows][0])
                logits[rows, : new.shape[1]] = to_numpy(new) if self._wide else to_numpy(new.float())
        return logits

    def _feed(self, cache: DynamicCache, ids: Tensor, *, fresh: bool) -> Tensor:
        size = 1 if self._recurrent and not fresh else ids.shape[1]
        logits = [self.runner.forward(chunk, cache) for chunk in torch.split(ids, size, dim=1)]
        return logits[-1] if self.manifest.logits == "last" else torch.cat(logits, dim=1)

    def _rows(self) -> list[slice]:
        """The sequences that each cache holds."""
        each = self.batch // len(self._caches)
        return [slice(start, start + each) for start in range(0, self.batch, each)]

    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        whole = torch.zeros(spec.sizes(self.batch, self.position), dtype=tensor_dtype(spec, self._wide))
        for cache, rows in zip(self._caches, self._rows(), strict=True):
            kept = read(cache, spec)
            if kept is not None and spec.grows:
                end = int(self.lengths[rows][0])
                whole[rows, :, end - kept.shape[2] : end] = kept.cpu()
            elif kept is not None:
                whole[rows] = kept.cpu()
        return to_numpy(whole)

    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        kept = {spec.past_name: self._read_state(spec) for spec in self.manifest.states if spec.past_name not in states}
        self._take(self._tensors({**kept, **states}), lengths, shared=np.unique(lengths).size == 1)

    def _tensors(self, states: Mapping[str, NDArray[np.floating]]) -> dict[str, Tensor]:
        return {
            spec.past_name: torch.from_numpy(np.array(states[spec.past_name])).to(
                self.runner.device, tensor_dtype(spec, self._wide)
            )
            for spec in self.manifest.states
        }

    def _take(self, states: dict[str, Tensor], lengths: Lengths, *, shared: bool) -> None:
        """Put states into new caches: one for all sequences, or one each."""
        self._caches = [new_cache(self.runner.model) for _ in range(1 if shared else self.batch)]
        for cache, rows in zip(self._caches, self._rows(), strict=True):
            if length := int(lengths[rows][0]):
                with torch.inference_mode(), self.runner.computing():
                    write(cache, self.manifest.states, {k: v[rows] for k, v in states.items()}, length)

    def _close(self) -> None:
        self._caches = []
