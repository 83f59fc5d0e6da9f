"""The descriptions beside the kernels, which every runtime reads, say what Python's ops say."""

from __future__ import annotations

import ctypes
import importlib
import re
from typing import Any

import pytest
import torch

from seqexport.plugins.kernels.c_api import Description, KernelRefused, described
from seqexport.plugins.ops import OPS
from seqexport.runtimes.fit.estimate import SCRATCH
from seqexport.runtimes.trt.precision import OUTPUTS
from tests.native import KERNELS
from tests.ops.conformance import Values, run_reference

LISTED = re.findall(r"^  OP\((\w+), \w+, (\w+), (\w+)\)", (KERNELS / "op_list.h").read_text(), re.MULTILINE)
NAMES = sorted(op.name for op in OPS.values() if op.stem in {stem for stem, _, _ in LISTED})
"""Of the ops that have kernels, or shall have them; the bodies of others run everywhere."""

KINDS = {"int": int, "float": float, "choice": str}
TOKENS, GRID = 1 << 30, 65535
STATEFUL = ("CausalAttention", "CausalConv1d", "SelectiveScan", "SsdScan")


def values_of(name: str) -> Values:
    """Inputs of the op, as the tests of its own make them."""
    return importlib.import_module(f"tests.ops.test_{OPS[name].stem}").make(dtype=torch.float16)


@pytest.fixture(scope="module")
def told(descriptions: ctypes.CDLL) -> dict[str, Description]:
    return {each.name: each for each in described(descriptions).values()}


def test_every_op_of_the_list_is_described(told: dict[str, Description]) -> None:
    assert {each.stem: name for name, each in told.items()} == {OPS[name].stem: name for name in NAMES}
    assert sorted(each.stem for each in told.values()) == [stem for stem, _, _ in LISTED]


@pytest.mark.parametrize("name", NAMES)
def test_tensors(told: dict[str, Description], name: str) -> None:
    op, ours = OPS[name], told[name]
    assert [(each.name + "?" * each.optional, each.type) for each in ours.inputs] == list(op.inputs.items())
    assert [(each.name, each.type) for each in ours.outputs] == list(op.outputs.items())
    assert {each.name: each.needs for each in ours.outputs if each.needs} == dict(op.brought_by)
    assert tuple(each.name for each in ours.outputs if each.optional and not each.needs) == op.optional_outputs
    assert {each.name: tuple(each.axes[2:]) for each in ours.inputs if each.stride} == dict(op.windows)


@pytest.mark.parametrize("name", NAMES)
def test_attributes(told: dict[str, Description], name: str) -> None:
    defaults = {
        each.name: each.choices[int(each.default)] if each.choices else KINDS[each.kind](each.default)
        for each in told[name].attributes
    }
    assert defaults == dict(OPS[name].attributes)
    assert [type(value) for value in defaults.values()] == [type(value) for value in OPS[name].attributes.values()]


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(told: dict[str, Description], name: str) -> None:
    """Those of the reference's outputs are those that the axes give."""
    ours, values = told[name], values_of(name)
    sizes = {each.name: int(each.default) for each in ours.attributes} | sizes_by_axes(ours, values)
    fixed = {"F": torch.float32, "I": torch.int32}
    expected = [
        (shape_of(each.axes, sizes), fixed.get(each.type) or type_of_t(ours, values))
        for each in ours.outputs
        if each.needs is None or values[each.needs] is not None
    ]
    assert [(list(y.shape), y.dtype) for y in run_reference(OPS[name], values)] == expected


def sizes_by_axes(ours: Description, values: Values) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for each in ours.inputs:
        for axis, length in zip(each.axes, () if values[each.name] is None else values[each.name].shape, strict=False):
            size, _, less = str(axis).partition("-")
            assert sizes.setdefault(size, length + int(less or 0)) == length + int(less or 0), (each.name, axis)
    return sizes


def shape_of(axes: Any, sizes: dict[str, int]) -> list[int]:
    parts = [str(axis).partition("-") for axis in axes]
    return [int(size) if size.isdigit() else sizes[size] - int(less or 0) for size, _, less in parts]


def type_of_t(ours: Description, values: Values) -> torch.dtype:
    return next(values[each.name].dtype for each in ours.inputs if each.type == "T")


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_those_of_the_header(told: dict[str, Description], name: str) -> None:
    text = (KERNELS / f"{OPS[name].stem}.h").read_text()
    struct = re.search(r"typedef struct (\w+) \{\n(.*?)\n\} \1;", text, re.DOTALL)
    assert struct
    members = re.findall(r"^  [^/]*?(\w+);", struct[2], re.MULTILINE)
    assert [field for field, _ in told[name].struct._fields_] == members


RANGES = {
    ("CausalConv1d", "K"): {"cpu": [1, 64], "cuda": [2, 8]},
    **{(name, "B"): {"cpu": [1, TOKENS], "cuda": [1, GRID]} for name in STATEFUL},
    **{("CausalAttention", size): {"cpu": [1, 256], "cuda": [1, 256]} for size in ("Dh", "Dv")},
    **{("CausalAttention", size): {"cpu": [1, GRID], "cuda": [1, GRID]} for size in ("Hq", "Hkv")},
    **{(name, "N"): {"cpu": [1, 256], "cuda": [1, 256]} for name in ("SelectiveScan", "SsdScan")},
    ("SsdScan", "H"): {"cpu": [1, TOKENS], "cuda": [1, GRID]},
    ("SsdScan", "P"): {"cpu": [1, TOKENS], "cuda": [1, 256]},
    ("Experts", "k"): {"cpu": [1, TOKENS], "cuda": [1, 256]},
    ("Experts", "E"): {"cpu": [1, TOKENS], "cuda": [1, 1024]},
    ("TopKRouter", "E"): {"cpu": [1, TOKENS], "cuda": [1, 1024]},
    **{("RotaryQueryKey", size): {"cpu": [1, GRID], "cuda": [1, GRID]} for size in ("Hq", "Hkv")},
    **{("RotaryQueryKey", size): {"cpu": [2, GRID], "cuda": [2, GRID]} for size in ("Dh", "R")},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_ranges(told: dict[str, Description], name: str) -> None:
    """What the kernels of each device take; anything else up to 2^30."""
    anything = {"cpu": [1, TOKENS], "cuda": [1, TOKENS]}
    assert {size.name: {"cpu": size.cpu, "cuda": size.cuda} for size in told[name].sizes} == {
        size.name: RANGES.get((name, size.name), anything) for size in told[name].sizes
    }
    window = {each.name: (each.low, each.high) for each in told[name].attributes if each.name == "window"}
    assert window in ({}, {"window": (0, TOKENS)})


def test_shapes_that_do_not_go_together_are_refused(told: dict[str, Description]) -> None:
    values = values_of("SelectiveScan") | {"A": torch.zeros(7, 4)}
    with pytest.raises(KernelRefused, match=r"selective_scan: A must be \['D', 'N'\] with .*, got \[7, 4\]"):
        told["SelectiveScan"].sizes_of(values)


def test_every_listed_kernel_has_its_file() -> None:
    for stem, cuda, cpu in LISTED:
        files = {"CUDA": KERNELS / f"{stem}.cu", "CPU": KERNELS / "cpu" / f"{stem}.cpp", "NONE": KERNELS}
        assert (KERNELS / f"{stem}_op.cpp").is_file() and files[cuda].exists() and files[cpu].exists(), stem


def test_what_fits_a_board_counts_the_plugins_scratch_memory(told: dict[str, Description]) -> None:
    assert {name: each.workspace for name, each in told.items() if each.workspace} == SCRATCH


def test_tensorrt_before_10_is_told_which_outputs_are_not_of_type_t() -> None:
    """runtimes/trt/precision.py cannot read the ops, which need torch."""
    mixed = {op.name: "".join(op.outputs.values()) for op in OPS.values() if {*op.outputs.values()} != {"T"}}
    assert mixed == OUTPUTS
    assert {list(OPS[name].attributes)[-1] for name, types in mixed.items() if "S" in types} == {"wide"}
