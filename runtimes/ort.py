"""ONNX Runtime: the bundle's graph on CPU or CUDA, its states kept in the runtime's own buffers between calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, States, Tokens
from seqexport.runtimes.bundle import CONTRACT, Bundle
from seqexport.runtimes.contract import StateSpec
from seqexport.runtimes.ort_library import OpsLibrary

try:
    import onnxruntime as ort
except ImportError as error:
    raise UserError(
        "the backend 'ort' needs ONNX Runtime: pip install 'seqexport[ort]' (CPU) or 'seqexport[ort-gpu]' (CUDA)"
    ) from error

Device = Literal["cpu", "cuda"]
FATAL = 4
"""ONNX Runtime's log level for nothing but a crash: it raises what it logs as an error."""

ATTENTION_SINCE = "1.32"
"""The first whose GroupQueryAttention takes ragged chunks."""

CUDA_OPTIONS = {"use_tf32": "0"}
"""float32 products keep their 24 bits; TF32 has 11."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtRunner(Runner):
    """A bundle in an ONNX Runtime session.

    Args:
        bundle: an opened bundle.
        device: ``cpu`` or ``cuda``.
        threads: of the CPU provider; default: all cores.
        no_plugins: run the ops' function bodies even where the compiled library could run them.

    Attributes:
        ops: what computes our ops.

    Raises:
        UserError: the provider is not there, the library is damaged, or ONNX Runtime refuses the graph.
    """

    backend: ClassVar[str] = "ort"

    def __init__(
        self, bundle: Bundle, *, device: Device = "cpu", threads: int | None = None, no_plugins: bool = False
    ) -> None:
        super().__init__(bundle)
        self.device = device
        _check_provider(device)
        _check_dtype(bundle, device)
        self.ops = OpsLibrary.for_graph(self.contract.ops, device, no_plugins=no_plugins)
        options = self.ops.session_options()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        providers: list[Any] = [(PROVIDERS["cuda"], CUDA_OPTIONS)] if device == "cuda" else []
        try:
            self.engine = ort.InferenceSession(str(bundle.model), options, providers=[*providers, PROVIDERS["cpu"]])
        except Exception as error:
            raise UserError(_why_not_loaded(bundle, str(error), self.ops)) from error
        self.caches_in_place = self.contract.caches_in_place or self.ops.writes_caches_in_place
        self.input_names = {spec.name for spec in self.contract.inputs}
        self._check_interface()

    def _check_interface(self) -> None:
        engine, contract = self.engine, self.contract
        for kind, specs, values in (
            ("inputs", contract.inputs, engine.get_inputs()),
            ("outputs", contract.outputs, engine.get_outputs()),
        ):
            if others := {spec.name for spec in specs} ^ {value.name for value in values}:
                raise UserError(
                    f"{self.bundle.model}: its {kind} are not those that {CONTRACT} lists ({min(others)}); "
                    "export the model again"
                )

    @property
    def description(self) -> str:
        where = f"ONNX Runtime {ort.__version__}, {PROVIDERS[self.device]}, target {self.contract.target}"
        return f"{where}, {self.ops}" if self.contract.ops else where

    def session(self, batch: int = 1, capacity: int | None = None) -> OrtSession:
        return OrtSession(self, batch, capacity if capacity is not None else self.contract.capacity or 0)

    def close(self) -> None:
        del self.engine


class OrtSession(Session):
    """States live in ``OrtValue`` buffers on the device.

    A state of fixed size has two buffers that swap roles at each call. A key/value cache has one, bound as past and as
    present, if the graph updates it in place, else two. In place it may have to hold padded tokens beyond the capacity.
    """

    def __init__(self, runner: OrtRunner, batch: int, capacity: int) -> None:
        super().__init__(runner.contract, batch, capacity)
        self.runner = runner
        self._room = capacity
        self._past = {s.past_name: self._zeros(s) for s in self.contract.states}
        self._present = {
            s.present_name: self._past[s.past_name] if s.grows and runner.caches_in_place else self._zeros(s)
            for s in self.contract.states
        }
        self._binding = runner.engine.io_binding()

    def _zeros(self, spec: StateSpec) -> Any:
        return self._value(np.zeros(spec.sizes(self.batch, self._room), ort_dtype(spec.dtype)))

    def _value(self, array: NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self.runner.device, 0)

    def _make_room(self, length: int) -> None:
        """GroupQueryAttention wants a row's tokens and the whole padded call to fit into its cache."""
        needed = int(self.lengths.max()) + length
        if not self.contract.caches_in_place or needed <= self._room:
            return
        self._room = needed
        for spec in self.contract.states:
            if spec.grows:
                value = self._value(self._fitted(spec, self._past[spec.past_name].numpy()))
                self._past[spec.past_name] = self._present[spec.present_name] = value

    def _fitted(self, spec: StateSpec, given: NDArray[Any]) -> NDArray[Any]:
        """A state in the shape of its buffer."""
        array = np.zeros(spec.sizes(self.batch, self._room), ort_dtype(spec.dtype))
        if spec.grows:
            array[:, :, : given.shape[2]] = given
        else:
            array[...] = given
        return array

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        self._make_room(tokens.shape[1])
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
        states = {s: self._past[s.past_name].numpy() for s in self.contract.states}
        return {s.past_name: (x[:, :, :longest] if s.grows else x).copy() for s, x in states.items()}

    def write_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        lengths = np.asarray(lengths, np.int32)
        self._check_capacity(lengths - self.lengths)
        for spec in self.contract.states:
            if spec.grows and states[spec.past_name].shape[2] > self.capacity:
                held = states[spec.past_name].shape[2]
                raise UserError(f"{spec.past_name}: {held} tokens, the session holds {self.capacity}")
        arrays = {s.past_name: self._fitted(s, states[s.past_name]) for s in self.contract.states}
        for name, array in arrays.items():
            self._past[name].update_inplace(array)
        self.lengths = lengths.copy()

    def close(self) -> None:
        self._past.clear()
        self._present.clear()


def ort_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a state; ONNX Runtime's CPU has no bfloat16, so numpy needs none."""
    return np.dtype(name)


def _why_not_loaded(bundle: Bundle, error: str, ops: OpsLibrary) -> str:
    if "is not a registered function/op" in error and not ops.path:
        return (
            f"{bundle.path}: target {bundle.contract.target} has no function bodies, so ONNX Runtime needs the library "
            f"of our ops, and {ops.why_not}; build it: seqexport plugins build, or export with --target portable"
        )
    if "GroupQueryAttention" in error:
        return (
            f"{bundle.path}: target {bundle.contract.target} needs ONNX Runtime {ATTENTION_SINCE} or newer for its "
            f"attention, and this is {ort.__version__}; upgrade it, or export with --target portable"
        )
    return f"ONNX Runtime {ort.__version__} cannot load {bundle.model}: {error.strip().splitlines()[0]}"


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
