"""Small blocks of vision, sound, points and series, written from their papers: each exports and is proved."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import seqexport
from seqexport.exporter.standins.packages import PACKAGES
from seqexport.runtimes.comparison.module_reference import read_module_reference

NAMES = ("vim", "vmamba", "mambavision", "denoiser", "points", "forecaster")
Exported = Callable[..., seqexport.Bundle]


@functools.cache
def source(name: str) -> ModuleType:
    with seqexport.mamba_ssm():
        return importlib.import_module(f"tests.exporter.modules.{name}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("modules")

    @functools.cache
    def once(name: str, **options: Any) -> seqexport.Bundle:
        home = source(name)
        folder = root / "-".join([name, *map(str, options.values())])
        asked = {"inputs": home.INPUTS, "dynamic": home.DYNAMIC, "states": getattr(home, "STATES", None)}
        return seqexport.export(home.make(), folder, **asked, **options)

    return once


@pytest.mark.parametrize("name", NAMES)
def test_it_exports_and_is_as_exact_as_pytorch(name: str, exported: Exported) -> None:
    bundle = exported(name)
    assert bundle.manifest.ops == source(name).OPS
    not_checked: list[str] = []
    checks = seqexport.verify(bundle, not_checked=not_checked.append)
    assert checks and all(check.passed for check in checks), checks
    assert not_checked == []
    assert not {each for each in PACKAGES if each in sys.modules}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "denoiser"])
def test_in_half_precision_and_target_ort(name: str, exported: Exported) -> None:
    checks = seqexport.verify(exported(name, target="ort", dtype="fp16"))
    assert checks and all(check.passed for check in checks), checks


@pytest.mark.parametrize("name", NAMES)
def test_target_tensorrt_has_plugin_nodes(name: str, exported: Exported) -> None:
    manifest = exported(name, target="tensorrt").manifest
    assert source(name).OPS.items() <= manifest.ops.items()


def test_vmamba_takes_other_heights_and_widths(exported: Exported) -> None:
    sizes = [case.sizes(exported("vmamba").manifest) for case in read_module_reference(exported("vmamba")).cases]
    assert {(each["height"], each["width"]) for each in sizes} >= {(24, 40), (26, 43)}
    with seqexport.load(exported("vmamba")) as model:
        outputs = model(images=np.zeros((3, 3, 64, 16), np.float32))
    assert outputs["features"].shape == (3, 12, 8, 2)


def test_windows_keep_to_multiples(exported: Exported) -> None:
    """At 34 rows MambaVision does not run, so that 64 are recorded; with fewer columns neither, so that these grow."""
    sizes = [
        case.sizes(exported("mambavision").manifest) for case in read_module_reference(exported("mambavision")).cases
    ]
    assert {"batch": 3, "height": 64, "width": 48} in sizes
    assert {"batch": 1, "height": 16, "width": 144} in sizes


def test_a_float32_state_of_a_module_in_half_precision(tmp_path: Path) -> None:
    home = source("denoiser")
    asked = {"dynamic": home.DYNAMIC, "states": home.STATES}
    with pytest.raises(
        seqexport.Error, match=r"^Denoiser cannot be exported: SelectiveScan: past is float16; expected"
    ):
        seqexport.export(home.make(), tmp_path / "out", inputs=home.INPUTS, dtype="fp16", **asked)
    inputs = {name: value if name == "scan" else value.half() for name, value in home.INPUTS.items()}
    bundle = seqexport.export(home.make().half(), tmp_path / "out", inputs=inputs, **asked)
    assert [state.dtype for state in bundle.manifest.states] == ["float16", "float32"]
    assert all(check.passed for check in seqexport.verify(bundle))


def test_chunk_by_chunk_equals_the_whole(exported: Exported) -> None:
    frames = np.random.default_rng(3).standard_normal((3, 17, 9)).astype(np.float32)
    with seqexport.load(exported("denoiser")) as model:
        states = {"conv": np.zeros((3, 12, 3), np.float32), "scan": np.zeros((3, 12, 5), np.float32)}
        whole = model(frames=frames, **states)
        clean = []
        for start, end in ((0, 1), (1, 2), (2, 9), (9, 17)):
            part = model(frames=frames[:, start:end], **states)
            states = model.carried(part)
            clean.append(part["clean"])
    np.testing.assert_allclose(np.concatenate(clean, 1), whole["clean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(states["scan"], whole["scan_after"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(states["conv"], whole["conv_after"])
