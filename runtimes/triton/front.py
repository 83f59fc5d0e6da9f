"""The front: Triton's Python back end loads it, and it calls the engine, which is another model of the same Triton.

It calls rather than runs the model itself, so that Triton batches the sequences of all requests, keeps their states,
and runs them in its own build of ONNX Runtime or TensorRT. Calls wait in threads of their own: Triton's asynchronous
calls are not for decoupled models.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.serve.requests import Reason, Request
from seqexport.runtimes.tokenizer import BundleTokenizer
from seqexport.runtimes.triton.config import Sizes
from seqexport.runtimes.triton.sequence import Call, EngineSequence, texts

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Front:
    """What ``model.py`` of a repository extends; ``folder`` is its own, with the bundle's manifest and tokenizer."""

    folder: ClassVar[Path]

    def initialize(self, args: dict[str, str]) -> None:
        """Triton calls it once, before any request."""
        told = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        bundle = open_bundle(self.folder, check_files=[file.name for file in self.folder.iterdir()])
        self._engine, self._manifest, self._tokenizer = told["engine"], bundle.manifest, BundleTokenizer(bundle)
        self._names = frozenset(spec.name for spec in bundle.manifest.inputs)
        self._sizes = Sizes(*(int(told[name]) for name in ("max_batch", "max_tokens", "chunk")))
        self._threads = ThreadPoolExecutor(self._sizes.max_batch, "seqexport")

    def execute(self, requests: Sequence[Any]) -> None:
        """Triton calls it with requests, whose answers come later."""
        for request in requests:
            self._threads.submit(self._answer, request, request.get_response_sender())

    def finalize(self) -> None:
        """Triton calls it last."""
        self._threads.shutdown()

    def _answer(self, request: Any, sender: Any) -> None:
        try:
            self._stream(request, sender)
        except UserError as error:
            _refuse(sender, str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # whatever it is, the client is told, and others are served
            _refuse(sender, f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _stream(self, request: Any, sender: Any) -> None:
        asked, streams = self._asked(request), bool(_one(request, "stream", False))
        held = ""
        with EngineSequence(self._calls(), self._names, self._sizes.chunk) as sequence:
            for text, reason in texts(asked, self._tokenizer, self._manifest.eos_token_ids, self._sizes, sequence):
                if sender.is_cancelled():
                    break
                held += text
                if reason is not None or (streams and held):
                    sender.send(_response(held, reason), FINAL if reason is not None else 0)
                    held = ""
            else:
                return
        sender.send(flags=FINAL)

    def _asked(self, request: Any) -> Request:
        text, tokens = _one(request, "text_input"), _values(request, "input_ids")
        if (text is None) == (tokens is None):
            raise UserError("text_input or input_ids: give one of them")
        prompt = self._tokenizer.encode(text) if tokens is None else tokens.tolist()
        if bad := [token for token in prompt if not 0 <= token < self._manifest.vocab_size]:
            raise UserError(f"token {bad[0]}: outside the vocabulary of {self._manifest.vocab_size}")
        most = _one(request, "max_tokens", 16)
        if most < 1:
            raise UserError(f"max_tokens {most}: expected at least 1")
        seed = _one(request, "random_seed")
        sampling = Sampling(
            temperature=_one(request, "temperature", 1.0),
            top_k=_one(request, "top_k", 0),
            top_p=_one(request, "top_p", 1.0),
            seed=secrets.randbits(64) if seed is None else seed,
        )
        return Request(prompt, most, sampling, tuple(_texts(_values(request, "stop_words"))))

    def _calls(self) -> Any:
        number = secrets.randbits(63) + 1  # 0 is no sequence

        def infer(call: Call) -> NDArray[np.floating]:
            flags = call.starts * pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
            flags |= call.ends * pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
            response = pb_utils.InferenceRequest(
                model_name=self._engine,
                requested_output_names=["logits"],
                inputs=[pb_utils.Tensor(name, value) for name, value in call.inputs.items()],
                correlation_id=number,
                flags=flags,
            ).exec()
            if response.has_error():
                raise RuntimeError(f"the engine {self._engine} fails: {response.error().message()}")
            logits: NDArray[np.floating] = pb_utils.get_output_tensor_by_name(response, "logits").as_numpy()
            return logits

        return infer


def _values(request: Any, name: str) -> NDArray[Any] | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)


def _one(request: Any, name: str, default: Any = None) -> Any:
    values = _values(request, name)
    if values is None:
        return default
    return next(iter(_texts(values))) if values.dtype == np.object_ else values[0].item()


def _texts(values: Iterable[bytes] | None) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values] if values is not None else []


def _response(text: str, reason: Reason | None) -> Any:
    told = {"text_output": text, "finish_reason": reason or ""}
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, np.array([value.encode()], np.object_)) for name, value in told.items()]
    )


def _refuse(sender: Any, message: str, code: Any) -> None:
    with suppress(Exception):  # the answer may be whole, or nobody there
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), FINAL)
