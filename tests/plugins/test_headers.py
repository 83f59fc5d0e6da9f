"""Where CMake finds the headers of TensorRT and ONNX Runtime, and what it takes when it finds several."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from seqexport.plugins import toolchain
from tests.conftest import leave_out

CMAKE = Path(toolchain.__file__).parent / "cmake"
ROWS = [line.split() for line in (CMAKE / "headers.txt").read_text().splitlines()]
LATE = """
#define TRT_MAJOR_ENTERPRISE {}
#define TRT_MINOR_ENTERPRISE {}
#define TRT_PATCH_ENTERPRISE {}
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.
#define NV_TENSORRT_LWS_MAJOR 0
"""
EARLY = """
#define NV_TENSORRT_MAJOR {} //!< TensorRT major version.
#define NV_TENSORRT_MINOR {} //!< TensorRT minor version.
#define NV_TENSORRT_PATCH {} //!< TensorRT patch version.
#define NV_TENSORRT_SONAME_MAJOR 8
"""


def tensorrt(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = EARLY if version.startswith("8") else LATE
    (folder / "NvInferVersion.h").write_text(text.format(*version.split(".")))
    return folder


def onnxruntime(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "onnxruntime_c_api.h").write_text(f"#define ORT_API_VERSION {version.split('.')[1]}\n")
    return folder


@dataclass
class Machine:
    """One with no headers but those that a test puts there, and no network but ``github``."""

    root: Path
    cmake: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def github(self) -> Path:
        return self.root / "github"

    def find(self, environment: Mapping[str, str] = {}, **definitions: object) -> dict[str, str]:
        script = self.root / "find.cmake"
        names = [f"{p}_{n}" for p in ("TENSORRT", "ORT")
                 for n in ("INCLUDE_DIR", "HEADERS_VERSION", "HEADERS_FROM", "HEADERS_MISSING")]  # fmt: skip
        out = self.root / "out.txt"
        lines = [f'file(WRITE "{out}" "")', *(f'file(APPEND "{out}" "{n}=${{{n}}}\\n")' for n in names)]
        script.write_text(f'include("{CMAKE}/headers.cmake")\n' + "\n".join(lines))
        options = {
            "SEQEXPORT_HEADERS_URL": f"file://{self.github}",
            "SEQEXPORT_HEADERS_CACHE": self.cache,
            "SEQEXPORT_SYSTEM_INCLUDE_DIRS": self.root / "system",
        } | definitions
        given = {name: value for name, value in options.items() if value is not None}
        command = [str(self.cmake), *(f"-D{k}={v}" for k, v in given.items()), "-P", str(script)]
        env = {"PATH": "/usr/bin:/bin", **environment}
        result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=self.root, check=False)
        if result.returncode:
            raise RuntimeError(" ".join(result.stderr.split()))
        return dict(line.split("=", 1) for line in out.read_text().splitlines())

    def publish(self, version: str, tag: str, *, sha256: str = "") -> Path:
        """Puts TensorRT's version header on GitHub; returns a table that has it, with its own hash by default."""
        file = tensorrt(self.github / "NVIDIA/TensorRT" / tag / "include", version) / "NvInferVersion.h"
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        table = self.root / "headers.txt"
        table.write_text(f"tensorrt {version} {tag} {file.name} {sha256 or digest}\n")
        return table


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    cmake = toolchain.find_toolchain().cmake.path
    return Machine(tmp_path, cmake or leave_out("tests of the header search left out: no cmake"))


def test_a_folder_that_is_named_comes_first(machine: Machine, tmp_path: Path) -> None:
    tensorrt(machine.root / "system", "10.3.0")
    own = tensorrt(tmp_path / "own", "8.6.1")
    found = machine.find(TENSORRT_INCLUDE_DIR=own, TENSORRT_VERSION="10.3.0")
    assert (found["TENSORRT_INCLUDE_DIR"], found["TENSORRT_HEADERS_VERSION"]) == (str(own), "8.6.1")


def test_a_tar_file_that_was_unpacked_is_named_by_its_folder(machine: Machine, tmp_path: Path) -> None:
    tensorrt(machine.root / "system", "10.3.0")
    tensorrt(tmp_path / "TensorRT" / "include", "8.5.2")
    found = machine.find(TENSORRT_ROOT=tmp_path / "TensorRT")
    assert (found["TENSORRT_INCLUDE_DIR"], found["TENSORRT_HEADERS_VERSION"]) == (
        str(tmp_path / "TensorRT/include"),
        "8.5.2",
    )


def test_a_folder_that_is_named_and_has_none_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no NvInferVersion\.h that says its version; give the folder"):
        machine.find(TENSORRT_INCLUDE_DIR=tmp_path)


def test_the_system_comes_before_the_cache(machine: Machine) -> None:
    system = onnxruntime(tensorrt(machine.root / "system", "10.3.0"), "1.20.0")
    tensorrt(machine.cache / "tensorrt-10.13.0/include", "10.13.0")
    onnxruntime(machine.cache / "onnxruntime-1.29.0/include", "1.29.0")
    found = machine.find()
    assert (found["TENSORRT_INCLUDE_DIR"], found["TENSORRT_HEADERS_VERSION"]) == (str(system), "10.3.0")
    assert (found["ORT_INCLUDE_DIR"], found["ORT_HEADERS_VERSION"]) == (str(system), "1.20.0")


def test_headers_of_another_major_version_are_left_alone(machine: Machine) -> None:
    tensorrt(machine.root / "system", "8.6.1")
    found = machine.find(TENSORRT_VERSION="10.3.0")
    assert (found["TENSORRT_INCLUDE_DIR"], found["TENSORRT_HEADERS_FROM"]) == ("", "")
    assert "NvInfer" in found["TENSORRT_HEADERS_MISSING"]


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("", "11.1.0"),
        ("8.4.3", "8.5.2"),
        ("8.5.3", "8.5.2"),
        ("8.6.0", "8.6.0"),
        ("8.6.2", "8.6.1"),
        ("10.0.1", "10.3.0"),
        ("10.9.0", "10.3.0"),
        ("10.16.1", "10.13.0"),
    ],
)
def test_the_cached_version_that_fits_tensorrt(machine: Machine, runtime: str, expected: str) -> None:
    for version in ("8.5.2", "8.6.0", "8.6.1", "10.3.0", "10.13.0", "11.1.0"):
        tensorrt(machine.cache / f"tensorrt-{version}/include", version)
    assert machine.find(TENSORRT_VERSION=runtime)["TENSORRT_HEADERS_VERSION"] == expected


@pytest.mark.parametrize(("runtime", "expected"), [("", "1.18.0"), ("1.20.1", "1.18.0"), ("1.32.0", "1.29.0")])
def test_the_cached_version_that_onnxruntime_can_load(machine: Machine, runtime: str, expected: str) -> None:
    for version in ("1.18.0", "1.29.0"):
        onnxruntime(machine.cache / f"onnxruntime-{version}/include", version)
    assert machine.find(ORT_VERSION=runtime)["ORT_HEADERS_VERSION"] == expected


def test_no_headers_fit_a_runtime_that_is_unknown_or_too_old(machine: Machine) -> None:
    found = machine.find(TENSORRT_VERSION="9.1.0", ORT_VERSION="1.10.0")
    assert found["TENSORRT_HEADERS_MISSING"] == "none are known that fit tensorrt 9.1.0"
    assert found["ORT_HEADERS_MISSING"] == "none are known that fit onnxruntime 1.10.0"


def test_a_download_with_another_hash_leaves_nothing(machine: Machine) -> None:
    table = machine.publish("10.3.0", "v10.3.0", sha256="0" * 64)
    found = machine.find(TENSORRT_VERSION="10.3.0", SEQEXPORT_HEADERS_TABLE=table)
    assert found["TENSORRT_INCLUDE_DIR"] == ""
    url = f"file://{machine.github}/NVIDIA/TensorRT/v10.3.0/include/NvInferVersion.h"
    digest = hashlib.sha256(Path(url.removeprefix("file://")).read_bytes()).hexdigest()
    assert found["TENSORRT_HEADERS_MISSING"] == f"{url}: its sha256 is {digest}, expected {'0' * 64}"
    assert list(machine.cache.iterdir()) == []


def test_a_download_that_fails_leaves_nothing(machine: Machine) -> None:
    table = machine.publish("10.3.0", "v10.3.0")
    with table.open("a") as stream:
        stream.write(f"tensorrt 10.3.0 v10.3.0 NvInfer.h {'0' * 64}\n")
    found = machine.find(TENSORRT_VERSION="10.3.0", SEQEXPORT_HEADERS_TABLE=table)
    assert "/NVIDIA/TensorRT/v10.3.0/include/NvInfer.h: " in found["TENSORRT_HEADERS_MISSING"]
    assert list(machine.cache.iterdir()) == []


def test_a_download_is_kept_for_the_next_time(machine: Machine) -> None:
    found = machine.find(TENSORRT_VERSION="11.1.0", SEQEXPORT_HEADERS_TABLE=machine.publish("11.1.0", "v11.1"))
    assert (found["TENSORRT_HEADERS_VERSION"], found["TENSORRT_HEADERS_FROM"]) == ("11.1.0", "GitHub")
    again = machine.find(TENSORRT_VERSION="11.1.0", SEQEXPORT_HEADERS_URL="file:///nowhere")
    assert again["TENSORRT_HEADERS_FROM"] == "the cache"
    assert again["TENSORRT_INCLUDE_DIR"] == str(machine.cache / "tensorrt-11.1.0/include")


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "home"}, {"HOME": "", "XDG_CACHE_HOME": ".cache"}])
def test_without_a_home_there_is_no_cache(machine: Machine, environment: dict[str, str]) -> None:
    table = machine.publish("10.3.0", "v10.3.0")
    for cache in (".cache", "home/.cache"):
        tensorrt(machine.root / cache / "seqexport/headers/tensorrt-8.6.1/include", "8.6.1")
    found = machine.find(environment, SEQEXPORT_HEADERS_CACHE=None, SEQEXPORT_HEADERS_TABLE=table)
    assert found["TENSORRT_INCLUDE_DIR"] == ""
    assert found["TENSORRT_HEADERS_MISSING"] == (
        "there is no cache to download them into; set HOME or SEQEXPORT_HEADERS_CACHE"
    )


def test_the_cache_is_the_user_s(machine: Machine) -> None:
    tensorrt(machine.root / "home/.cache/seqexport/headers/tensorrt-8.6.1/include", "8.6.1")
    tensorrt(machine.root / "cache/seqexport/headers/tensorrt-10.3.0/include", "10.3.0")
    home = {"HOME": str(machine.root / "home")}
    assert machine.find(home, SEQEXPORT_HEADERS_CACHE=None)["TENSORRT_HEADERS_VERSION"] == "8.6.1"
    named = home | {"XDG_CACHE_HOME": str(machine.root / "cache")}
    assert machine.find(named, SEQEXPORT_HEADERS_CACHE=None)["TENSORRT_HEADERS_VERSION"] == "10.3.0"


@pytest.mark.parametrize("package", ["tensorrt", "onnxruntime"])
def test_the_table_is_whole(package: str) -> None:
    rows = [row for row in ROWS if row[0] == package]
    assert rows and all(len(row) == 5 and len(row[4]) == 64 for row in rows)
    marker = {"tensorrt": "NvInferVersion.h", "onnxruntime": "onnxruntime_c_api.h"}[package]
    assert {row[1] for row in rows} == {row[1] for row in rows if row[3] == marker}
