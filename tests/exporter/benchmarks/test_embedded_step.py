"""The GPU run's step `embedded`, as far as it reads what programs said; tests/cpp/test_trt.py runs its programs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from seqexport.exporter.benchmarks.steps import embedded
from seqexport.runtimes.benchmarks import session_tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.ort.runner import OrtRunner

TIMES = {"bare": 300e-6, "bare_back_to_back": 290e-6, "step": 306e-6, "token": 320e-6}
SPEED: dict[str, Any] = {
    "decode": {"first": {**TIMES, "step": 400e-6}, "second": TIMES, "captured": True, "no_graph": ""},
    "switching": {"alone": 306e-6, "in_turns": 331e-6, "switch": 25e-6, "same_tokens": True},
    "disk": {"bytes": 3_000_000, "prompt": 2048, "prefill": 4e-3, "save": 20e-3, "restore": 10e-3, "fork": 1e-3,
             "read": 600e-6, "write": 50e-6, "copy": {"to_host": 40e9, "to_device": 20e9},
             "large_copy": {"to_host": 50e9, "to_device": 50e9}},
    "flat": {"seen": [{"sessions": 100, "resident": 10 << 20, "device_free": 9 << 30},
                      {"sessions": 1000, "resident": 11 << 20, "device_free": (9 << 30) - (3 << 20)}]},
}  # fmt: skip


def test_speed() -> None:
    rows = {row.name.partition(": ")[2]: row for row in embedded.speed_rows("m", copy.deepcopy(SPEED))}
    met = {name: row.met for name, row in rows.items() if row.target is not None}
    assert met == {
        "a step: bare engine's share": True,
        "a token, chosen and read: bare engine's share": False,
        "switching between sessions": False,
        "copy of a session to host: share of the bandwidth": True,
        "copy of a session to device: share of the bandwidth": False,
        "a restore from a file, times faster than a prompt of 2048": False,
        "states from memory, times faster than a prompt of 2048": True,
        "host memory from 100 to 1000 sessions": True,
        "device memory from 100 to 1000 sessions": False,
    }
    assert rows["a step: bare engine's share"].measured == pytest.approx(300 / 306)
    assert rows["device memory from 100 to 1000 sessions"].measured == 3
    assert rows["steps are CUDA graphs"].passed


def test_tokens() -> None:
    python = {"greedy": {"first": [1, 2], "rest": [3], "resumed": [3]}}
    assert all(row.passed for row in embedded.token_rows("m", {"greedy": {"first": [1, 2], "resumed": [3]}}, python))
    wrong = list(embedded.token_rows("m", {"greedy": {"first": [1, 4], "resumed": [3]}}, python))
    assert [row.passed for row in wrong] == [False, True, True]
    assert wrong[0].detail == {"got": [1, 4], "expected": [1, 2]}
    silent = {"greedy": {"first": [], "rest": [], "resumed": []}}
    assert not any(row.passed for row in embedded.token_rows("m", {"greedy": {"first": [], "resumed": []}}, silent))


def test_python_goes_on_after_either_file(bundle: Bundle, tmp_path: Path) -> None:
    prompt = [1, 2, 3]
    with OrtRunner(bundle, threads=1) as runner:
        for way, sampling in session_tokens.WAYS.items():
            with runner.session() as session:
                session.prefill(np.array([prompt]))
                list(session.generate(session_tokens.FIRST, sampling))
                session.save(tmp_path / f"{way}-cpp.safetensors")
        said = session_tokens.answers(runner, tmp_path, prompt)
    assert all(each["rest"] == each["resumed"] for each in said.values())
    assert said["greedy"] != said["sampled"]


def test_tensorrt_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, libraries = tmp_path / "tensorrt", tmp_path / "tensorrt_libs"
    for folder in (package, libraries):
        folder.mkdir()
    (libraries / "libnvinfer.so.10").touch()
    headers = {"8.6.1": Path("/eight"), "10.3.0": Path("/ten"), "10.13.0": Path("/later")}
    monkeypatch.setattr(embedded, "cached_headers", lambda: headers)
    found = embedded._tensorrt(Version("10.3.0.26"), package)
    assert found == {"TENSORRT_INCLUDE_DIR": Path("/ten"), "TENSORRT_LIBRARY": libraries / "libnvinfer.so.10"}
    assert embedded._tensorrt(Version("9.0"), package) == {}
    headers.update({"8.6.0": Path("/first")})
    assert embedded._tensorrt(Version("8.6.0"), package) == {"TENSORRT_INCLUDE_DIR": Path("/first")}
    assert embedded._tensorrt(Version("8.6.2"), package) == {"TENSORRT_INCLUDE_DIR": Path("/eight")}
