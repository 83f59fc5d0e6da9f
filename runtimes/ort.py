"""ONNX Runtime: the bundle's graph on CPU or CUDA, its states kept in the runtime's own buffers between calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, States, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.contract import StateSpec

try:
    import onnxruntime as ort
except ImportError as error:
    raise UserError(
        "the backend 'ort' needs ONNX Runtime: pip install 'seqexport[ort]' (CPU) or 'seqexport[ort-gpu]' (CUDA)"
    ) from error

Device = Literal["cpu", "cuda"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtRunner(Runner):
    """A bundle in an ONNX Runtime session.

    Args:
        bundle: an opened bundle.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU provider; default: all cores.

    Raises:
        UserError: the provider is not there, or ONNX Runtime refuses the graph.
    """

    backend: ClassVar[str] = "ort"

    def __init__(self, bundle: Bundle, *, device: Device = "cpu", threads: int | None = None) -> None:
        super().__init__(bundle)
        self.device = device
        _check_provider(device)
        _check_dtype(bundle, device)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        providers = [PROVIDERS[device]] if device == "cpu" else [PROVIDERS[device], PROVIDERS["cpu"]]
        try:
            self.engine = ort.InferenceSession(str(bundle.model), options, providers=providers)
        except Exception as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(f"ONNX Runtime {ort.__version__} cannot load {bundle.model}: {first_line}") from error
        self.input_names = {spec.name for spec in self.contract.inputs}

    @property
    def description(self) -> str:
        return f"ONNX Runtime {ort.__version__}, {PROVIDERS[self.device]}, target {self.contract.target}"

    def session(self, batch: int = 1, capacity: int | None = None) -> OrtSession:
        return OrtSession(self, batch, capacity if capacity is not None else self.contract.capacity or 0)

    def close(self) -> None:
        del self.engine


class OrtSession(Session):
    """States live in ``OrtValue`` buffers on the device.

    A state of fixed size has two buffers that swap roles at each call. A key/value cache has one, bound as past and as
    present, if the graph updates it in place, else two.
    """

    def __init__(self, runner: OrtRunner, batch: int, capacity: int) -> None:
        super().__init__(runner.contract, batch, capacity)
        self.runner = runner
        self._past = {s.past_name: self._zeros(s) for s in self.contract.states}
        self._present = {
            s.present_name: self._past[s.past_name] if s.grows and self.contract.caches_in_place else self._zeros(s)
            for s in self.contract.states
        }
        self._binding = runner.engine.io_binding()

    def _zeros(self, spec: StateSpec) -> Any:
        return self._value(np.zeros(spec.sizes(self.batch, self.capacity), ort_dtype(spec.dtype)))

    def _value(self, array: NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self.runner.device, 0)

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        feeds = {"input_ids": tokens, "seq_lens": seq_lens, "past_lens": self.lengths}
        for name, array in feeds.items():
            if name in self.runner.input_names:
                binding.bind_cpu_input(name, array)
        for name, value in self._past.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name, value in self._present.items():
            binding.bind_ortvalue_output(name, value)
        try:
            self.runner.engine.run_with_iobinding(binding)
        except Exception as error:
            raise UserError(f"ONNX Runtime failed: {str(error).strip().splitlines()[0]}") from error
        self._swap()
        logits: Floats = binding.get_outputs()[0].numpy().astype(np.float32, copy=False)
        return logits

    def _swap(self) -> None:
        for spec in self.contract.states:
            past, present = spec.past_name, spec.present_name
            self._past[past], self._present[present] = self._present[present], self._past[past]

    def read_states(self) -> States:
        longest = int(self.lengths.max())
        states = {s.past_name: self._past[s.past_name].numpy() for s in self.contract.states}
        return {s.past_name: states[s.past_name][:, :, :longest] if s.grows else states[s.past_name].copy()
                for s in self.contract.states}  # fmt: skip

    def write_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        for spec in self.contract.states:
            given = states[spec.past_name]
            array = np.zeros(spec.sizes(self.batch, self.capacity), ort_dtype(spec.dtype))
            if spec.grows:
                if given.shape[2] > self.capacity:
                    raise UserError(f"{spec.past_name}: {given.shape[2]} tokens, the session holds {self.capacity}")
                array[:, :, : given.shape[2]] = given
            else:
                array[...] = given
            self._past[spec.past_name].update_inplace(array)
        self.lengths = np.asarray(lengths, np.int32).copy()

    def close(self) -> None:
        self._past.clear()
        self._present.clear()


def ort_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a state; ONNX Runtime's CPU has no bfloat16, so numpy needs none."""
    return np.dtype(name)


def _check_provider(device: str) -> None:
    if PROVIDERS[device] not in ort.get_available_providers():
        raise UserError(
            f"ONNX Runtime {ort.__version__} has no {PROVIDERS[device]} here (it has "
            f"{', '.join(ort.get_available_providers())}); install onnxruntime-gpu and an NVIDIA driver, "
            "or use --device cpu"
        )


def _check_dtype(bundle: Bundle, device: str) -> None:
    if bundle.contract.dtype == "bfloat16" and device == "cpu":
        raise UserError(
            f"{bundle.path} is bfloat16, for which ONNX Runtime's CPU has no kernels; export with --dtype fp16 or fp32"
        )
