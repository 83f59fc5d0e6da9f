"""What ``torch.ops.seqexport`` does on CUDA: which calls go to the kernels, with what, and what runs otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from ctypes import CDLL
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqexport.plugins.errors import UserError
from seqexport.plugins.kernels.c_api import ABI, Description, KernelRefused, Kernels, described
from seqexport.plugins.ops import OPS, cuda
from tests.ops import (
    test_causal_attention,
    test_causal_conv1d,
    test_rms_norm,
    test_rotary_embedding,
    test_selective_scan,
    test_ssd_scan,
)
from tests.ops.conformance import NO_CUDA, Values, assert_as_accurate_as_torch, run_cuda, run_float64, run_reference

MAKE = {
    "CausalAttention": test_causal_attention.make,
    "CausalConv1d": test_causal_conv1d.make,
    "RmsNorm": test_rms_norm.make,
    "RotaryQueryKey": test_rotary_embedding.make,
    "SelectiveScan": functools.partial(test_selective_scan.make, dt_softplus=0),
    "SsdScan": functools.partial(test_ssd_scan.make, dt_softplus=0),
}
NAMES = sorted(MAKE)
STREAM = 77
needs_cuda = pytest.mark.skipif(bool(NO_CUDA), reason=f"tests/ops/test_cuda.py left out: {NO_CUDA}")


class Recorder(Kernels):
    """Takes down what it is called with, in place of a library that would launch it."""

    def __init__(self, ops: dict[str, Description]) -> None:
        self.ops = ops
        self.calls: list[tuple[str, object, int]] = []
        self.refuses = False

    def workspace(self, op: str, params: object) -> int:
        return 4096

    def call(self, op: str, params: object, stream: int = 0) -> None:
        self.calls.append((op, params, stream))
        if self.refuses:
            raise KernelRefused(f"{op}: too large")


@pytest.fixture
def built(descriptions: CDLL, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(described(descriptions))
    monkeypatch.setattr(cuda, "kernels", lambda: recorder)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    return recorder


@pytest.fixture
def uncached() -> Iterator[None]:
    cuda.kernels.cache_clear()
    yield
    cuda.kernels.cache_clear()


def run(name: str, values: Values, **attributes: object) -> list[torch.Tensor]:
    return list(cuda.implementation(OPS[name])(*values.values(), **attributes))


def assert_is_reference(name: str, values: Values) -> None:
    for ours, expected in zip(run(name, values), run_reference(OPS[name], values), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_library_the_reference_runs(
    name: str, uncached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    assert cuda.kernels() is None
    assert_is_reference(name, MAKE[name]())


def test_a_damaged_library_is_an_error_not_a_slow_run(
    uncached: None, native_library: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in native_library("kernels").parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: None if file.suffix == ".json" else 1000])
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path))
    with pytest.raises(UserError, match="damaged"):
        run("CausalConv1d", MAKE["CausalConv1d"]())


def test_the_built_library_is_loaded(
    uncached: None, native_library: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(native_library("kernels").parent))
    loaded = cuda.kernels()
    assert loaded is not None
    assert loaded.library.seqexport_kernels_abi() == ABI


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_outputs_have_memory_of_their_own(name: str, dtype: torch.dtype, built: Recorder) -> None:
    values = MAKE[name](dtype=dtype)
    outputs = run(name, values)
    ((op, params, stream),) = built.calls
    assert (op, stream) == (OPS[name].stem, STREAM)
    expected = run_reference(OPS[name], values)
    assert [(o.shape, o.dtype) for o in outputs] == [(e.shape, e.dtype) for e in expected]
    inputs = {v.data_ptr() for v in values.values() if v is not None}
    for output, field in zip(outputs, OPS[name].outputs, strict=True):
        assert getattr(params, field) == output.data_ptr()
        assert output.data_ptr() not in inputs
    for field, value in values.items():
        assert getattr(params, field) == (None if value is None else value.data_ptr())


@pytest.mark.parametrize("name", ["CausalAttention", "SelectiveScan", "SsdScan"])
def test_the_workspace_that_the_sizes_ask_for(name: str, built: Recorder) -> None:
    run(name, MAKE[name]())
    assert built.calls[0][1].workspace_bytes == 4096
    assert built.calls[0][1].workspace % 16 == 0


def test_attributes(built: Recorder) -> None:
    run("CausalAttention", MAKE["CausalAttention"](Dh=16), window=3, softcap=2.0)
    run("CausalAttention", MAKE["CausalAttention"](), scale=0.5)
    run("SelectiveScan", MAKE["SelectiveScan"](), dt_softplus=1)
    run("CausalConv1d", MAKE["CausalConv1d"](), activation="silu")
    run("RmsNorm", MAKE["RmsNorm"](dtype=torch.float16, wide=1), epsilon=0.5, wide=1)
    default, scaled, scan, conv, norm = (params for _, params, _ in built.calls)
    assert (default.scale, default.window, default.softcap, scaled.scale) == (0.25, 3, 2.0, 0.5)
    assert (scan.dt_softplus, conv.activation) == (1, 1)
    assert (norm.epsilon, norm.wide) == (0.5, 1)


def test_slices_of_a_projection_are_read_where_they_are(built: Recorder) -> None:
    values = MAKE["SelectiveScan"](D=6)
    fused = torch.randn(2, 5, 12)
    values |= {"x": fused[..., :6], "z": fused[..., 6:]}
    run("SelectiveScan", values)
    params = built.calls[0][1]
    assert (params.x, params.z) == (fused.data_ptr(), fused[..., 6:].data_ptr())
    assert (params.x_stride, params.z_stride) == (12, 12)


@pytest.mark.parametrize("change", [
    lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    lambda x: x[:, :1].expand_as(x),
], ids=["transposed", "rows apart", "expanded"])  # fmt: skip
def test_other_strides_are_made_contiguous(change, built: Recorder) -> None:
    values = MAKE["CausalConv1d"]()
    values["x"] = change(values["x"])
    values["past"] = values["past"].transpose(1, 2).contiguous().transpose(1, 2)
    _, present = run("CausalConv1d", values)
    params = built.calls[0][1]
    assert params.x_stride == values["x"].shape[2]
    assert params.x != values["x"].data_ptr()
    assert params.past != values["past"].data_ptr()
    assert present.is_contiguous()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_that_the_kernels_refuse_run_the_reference(name: str, built: Recorder) -> None:
    built.refuses = True
    assert_is_reference(name, MAKE[name]())
    assert len(built.calls) == 1


@pytest.mark.parametrize("name", NAMES)
def test_types_that_the_kernels_lack_run_the_reference(name: str, built: Recorder) -> None:
    values = {k: v.double() if v is not None and v.is_floating_point() else v for k, v in MAKE[name]().items()}
    assert_is_reference(name, values)
    mixed = MAKE[name]()
    mixed[next(iter(mixed))] = mixed[next(iter(mixed))].to(torch.bfloat16)
    assert len(run(name, mixed)) == len(OPS[name].outputs)
    assert built.calls == []


@pytest.mark.parametrize("wide", [0, 1])
def test_a_stream_of_another_type_runs_the_reference(wide: int, built: Recorder) -> None:
    values = MAKE["RmsNorm"](dtype=torch.float16, wide=1 - wide)
    _, total = run("RmsNorm", values, wide=wide)
    assert total.dtype == (torch.float32 if wide else torch.float16)
    assert built.calls == []


SIZES = {
    "CausalAttention": lambda length: {"S": length + 9, "past_lens": [3, 9]},
    "RotaryQueryKey": lambda _: {},
    "SsdScan": lambda _: {"P": 64},
}


@needs_cuda
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 63, 500])
def test_bfloat16(name: str, length: int) -> None:
    sizes = SIZES.get(name, lambda _: {"D": 200})(length)
    values = MAKE[name](length=length, dtype=torch.bfloat16, **sizes)
    true, torchs = run_float64(OPS[name], values), run_reference(OPS[name], values)
    assert_as_accurate_as_torch(run_cuda(OPS[name], values), torchs, true, torch.bfloat16)


@needs_cuda
@pytest.mark.parametrize("name", NAMES)
def test_inputs_stay_as_they_are_and_the_op_is_registered(name: str) -> None:
    values = {k: None if v is None else v.cuda() for k, v in MAKE[name]().items()}
    before = {k: None if v is None else v.clone() for k, v in values.items()}
    op = getattr(torch.ops.seqexport, OPS[name].stem).default
    op(*values.values())
    for key, value in values.items():
        assert value is None or torch.equal(value, before[key])
    torch.library.opcheck(op, tuple(values.values()))


@needs_cuda
def test_the_kernels_run_under_a_cuda_graph() -> None:
    values = {k: None if v is None else v.cuda() for k, v in MAKE["SelectiveScan"](length=300, D=64).items()}
    expected = torch.ops.seqexport.selective_scan(**values)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = torch.ops.seqexport.selective_scan(**values)
    graph.replay()
    torch.cuda.synchronize()
    for output, eager in zip(outputs, expected, strict=True):
        assert torch.equal(output, eager)
