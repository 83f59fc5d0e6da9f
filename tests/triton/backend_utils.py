"""Stands for ``triton_python_backend_utils``, which only a Triton has: what the front uses of it, over ``engines``."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.triton.engine import Engine

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2

engines: dict[str, Engine] = {}
"""That ``InferenceRequest`` reaches, by name."""


class Tensor:
    def __init__(self, name: str, value: NDArray[Any]) -> None:
        self.name, self._value = name, value

    def as_numpy(self) -> NDArray[Any]:
        return self._value


class TritonError:
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self.code = message, code

    def message(self) -> str:
        return self._message


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self._error = output_tensors or [], error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class InferenceRequest:
    def __init__(
        self, model_name: str, requested_output_names: list[str], inputs: list[Tensor], correlation_id: int, flags: int
    ) -> None:
        self._engine, self._wanted, self._number = engines[model_name], requested_output_names, correlation_id
        self._inputs = {tensor.name: tensor.as_numpy() for tensor in inputs}
        self._starts = bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        self._ends = bool(flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)

    def exec(self) -> InferenceResponse:
        try:
            outputs = self._engine.infer(self._inputs, self._number, starts=self._starts, ends=self._ends)
        except Exception as error:
            return InferenceResponse(error=TritonError(str(error)))
        return InferenceResponse([Tensor(name, outputs[name]) for name in self._wanted])


class Asked:
    """A client's request and the sender of its responses in one; ``leaves_after`` responses, the client is gone."""

    def __init__(self, inputs: dict[str, NDArray[Any]], leaves_after: int | None = None) -> None:
        self.tensors = [Tensor(name, value) for name, value in inputs.items()]
        self._leaves_after, self._sent = leaves_after, 0
        self._responses: queue.Queue[tuple[InferenceResponse | None, bool]] = queue.Queue()

    def get_response_sender(self) -> Asked:
        return self

    def is_cancelled(self) -> bool:
        return self._leaves_after is not None and self._sent >= self._leaves_after

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self._sent += 1
        self._responses.put((response, bool(flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL)))

    def responses(self) -> list[tuple[str, str]]:
        """Texts and reasons, to the last; a refusal raises."""
        found, last = list[tuple[str, str]](), False
        while not last:
            response, last = self._responses.get(timeout=60)
            if response is None:
                continue
            if (error := response.error()) is not None:
                raise Refused(error)
            text, reason = (tensor.as_numpy() for tensor in response.tensors)
            found.append((text[0].decode(), reason[0].decode()))
        return found


class Refused(Exception):
    def __init__(self, error: TritonError) -> None:
        super().__init__(error.message())
        self.code = error.code


def get_input_tensor_by_name(request: Asked, name: str) -> Tensor | None:
    return next((tensor for tensor in request.tensors if tensor.name == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in response.tensors if tensor.name == name), None)


def strings(*texts: str) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], np.object_)
