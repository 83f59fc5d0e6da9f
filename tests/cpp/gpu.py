"""libseqexport on TensorRT, against a TensorRT and a CUDA that compute in ONNX Runtime on this machine (fake_gpu)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from seqexport.plugins import folders, library, toolchain
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.output import as_json
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles
from seqexport.runtimes.trt.record import FOLDER, EngineRecord, PluginsUsed, weights_hash
from tests.conftest import leave_out
from tests.cpp.embedded import ADDRESS, ROOT, WHAT, WORK, Installed, cmake_built, run
from tests.onnxruntime.cxx import headers_and_library

FAKE = ROOT / "tests" / "cpp" / "fake_gpu"
VERSION, RUNS = "8.6.1", "8.6.2"
"""Of the headers, and what the fake says that it is."""

GPU, PLAN = "Fake GPU", f"fake-gpu-trt{RUNS}.plan"
LONGEST = 5
"""Columns that an engine takes, so that prompts come in pieces."""

INTERFACES = {"VRuntime": "Runtime", "VCudaEngine": "CudaEngine", "VExecutionContext": "ExecutionContext"}
PURE = re.compile(r"virtual ((?:[\w:*&<> ]|\n)+?[\s*&])(\w+)\(([^()]*)\)\s*(const)?\s*(noexcept)?\s*= 0;")


def tensorrt_headers() -> Path:
    folder = folders.cache() / "seqexport" / "headers" / f"tensorrt-{VERSION}" / "include"
    if not (folder / "NvInferRuntime.h").is_file():
        leave_out(f"{WHAT} on TensorRT left out: no cached headers of TensorRT {VERSION}")
    return folder


def stubs(include: Path) -> str:
    """C++ that fills every function of TensorRT's interfaces with one that ends the program."""
    text = "".join((include / name).read_text() for name in ("NvInferImpl.h", "NvInferRuntimeCommon.h"))
    wanted = {**{name: (f"nvinfer1::apiv::{name}", ours) for name, ours in INTERFACES.items()},
              "IPluginRegistry": ("nvinfer1::IPluginRegistry", "PluginRegistry")}  # fmt: skip
    made = [_stub(text, name, base, ours) for name, (base, ours) in wanted.items()]
    inside = "namespace nvinfer1 { namespace apiv {\n" + "".join(made) + "}}\n"
    names = "".join(f"using nvinfer1::apiv::{ours}; " for _, ours in wanted.values())
    return f"#include <NvInferRuntime.h>\n#include <cstdlib>\n{inside}namespace stubs {{ {names}}}\n"


def _stub(text: str, name: str, base: str, ours: str) -> str:
    (body,) = re.findall(rf"^class {name}\b[^;{{]*\{{(.*?)^\}};", text, re.DOTALL | re.MULTILINE)
    functions = [
        f"  {result}{function}({arguments}) {const} {noexcept} override {{ std::abort(); }}\n"
        for result, function, arguments, const, noexcept in PURE.findall(re.sub(r"//.*", "", body))
    ]
    assert len(functions) > 5
    return f"struct {ours} : {base} {{\n{''.join(functions)}}};\n"


def _built_fake(work: Path, include: Path, ort_include: Path, ort: Path) -> Path:
    """One library that is TensorRT's runtime and CUDA's; the linker takes what it finds in the first."""
    (work / "stubs.h").write_text(stubs(include))
    made, sources = work / "libfake_gpu.so", [FAKE / "cudart.cpp", FAKE / "nvinfer.cpp"]
    stamp = work / "libfake_gpu.sources"
    told = "".join(file.read_text() for file in (*sorted(FAKE.iterdir()), work / "stubs.h"))
    if made.exists() and stamp.exists() and stamp.read_text() == told:
        return made
    tools = toolchain.find_toolchain()
    includes = [option for folder in (include, ort_include, work, *_json()) for option in ("-isystem", folder)]
    flags = ["-std=c++17", "-O1", "-g", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror", "-shared", "-cudart", "none"]
    link = [f"-Xlinker={ort}", f"-Xlinker=-rpath,{ort.parent}", "-o", made]
    done = run(tools.nvcc.path, *flags, "-I", FAKE, *includes, *sources, *link)
    assert done.returncode == 0, done.stderr
    stamp.write_text(told)
    return made


def _json() -> list[Path]:
    """Where nlohmann's header is, if CMake had to download it."""
    return list((folders.cache() / "seqexport" / "headers").glob("nlohmann-json-*/include"))


def installed_on_tensorrt() -> Installed:
    """The library and its tools with sanitizers, without seqexport-build: nothing here has an ONNX parser."""
    tools = toolchain.find_toolchain()
    if lacking := [tool.name for tool in (tools.cmake, tools.make, tools.cxx, tools.nvcc) if tool.path is None]:
        leave_out(f"{WHAT} on TensorRT left out: no {', no '.join(lacking)}")
    include, kind = tensorrt_headers(), replace(ADDRESS, name="tensorrt")
    work = WORK / kind.name
    work.mkdir(parents=True, exist_ok=True)
    ort_include, ort = headers_and_library(work, WHAT)
    fake = _built_fake(work, include, ort_include, ort)
    return cmake_built(kind, SEQEXPORT_BACKEND="tensorrt", SEQEXPORT_BUILDER="OFF",
                       SEQEXPORT_BENCHMARKS="ON",
                       TENSORRT_INCLUDE_DIR=include, TENSORRT_LIBRARY=fake)  # fmt: skip


def plan_of(bundle: Bundle, profiles: dict[str, Any], *, in_place: bool) -> bytes:
    """What the fake takes for a plan."""
    manifest = bundle.manifest
    updates = {s.present_name: s.past_name for s in manifest.states if s.grows} if in_place else {}
    tensors = {
        spec.name: {"dtype": spec.dtype, "shape": spec.shape, "input": spec in manifest.inputs,
                    "updates": updates.get(spec.name, "")}
        for spec in (*manifest.inputs, *manifest.outputs)
    }  # fmt: skip
    return json.dumps({"model": str(bundle.model), "tensors": tensors, "profiles": list(profiles.values())}).encode()


def plugin_library(folder: Path, *, version: str = library.version(), tensorrt: str = VERSION) -> Path:
    """A library that says what ours says of itself; the fake needs no more of it."""
    folder.mkdir(exist_ok=True)
    made = folder / "libseqexport_tensorrt.so"
    told = json.dumps({"seqexport": version, "tensorrt": tensorrt, "ops": []})
    source = f'const char* seqexport_tensorrt_info(void) {{ return R"({told})"; }}'
    (folder / "plugins.cpp").write_text(
        f'extern "C" {{ {source} const char* seqexport_tensorrt_conflict(void) {{ return ""; }} }}'
    )
    done = run(toolchain.find_toolchain().cxx.path, "-shared", "-fPIC", folder / "plugins.cpp", "-o", made)
    assert done.returncode == 0, done.stderr
    return made


def add_engine(
    bundle: Bundle,
    *,
    plugins: bool = True,
    longest: int = LONGEST,
    shortest: int = 1,
    rows: int = 4,
    max_len: int | None = None,
    **changes: Any,
) -> EngineRecord:
    """An engine of a bundle that takes up to ``rows`` rows of ``shortest`` to ``longest`` tokens, and its record.

    Its caches hold ``max_len`` tokens, if not all of the bundle's; ``changes`` are those of the record.
    """
    largest: dict[str, tuple[int, ...]] = {"input_ids": (rows, longest)}
    grown = next((spec for spec in bundle.manifest.states if spec.grows), None)
    if grown and max_len:
        sizes = {"batch": rows, "max_len": max_len}
        largest[grown.past_name] = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in grown.shape)
    shapes = GivenShapes(min={"input_ids": (1, shortest)}, max=largest)
    profiles = bundle_profiles(bundle.manifest, shapes)
    folder = bundle.path / FOLDER
    folder.mkdir(exist_ok=True)
    plan = folder / PLAN
    plan.write_bytes(plan_of(bundle, profiles, in_place=plugins))
    record = EngineRecord(
        format_version=1,
        plan=PLAN,
        sha256=sha256(plan),
        gpu=GPU,
        compute_capability="9.0",
        tensorrt=RUNS,
        seqexport=library.version(),
        plugins=PluginsUsed("0", library.version()) if plugins else None,
        model_sha256=bundle.manifest.files["model.onnx"],
        profiles=profiles,
        flags={},
        date="2026-01-01",
        weights_sha256=weights_hash(bundle),
    )
    record = msgspec.structs.replace(record, **changes)
    plan.with_suffix(".json").write_bytes(as_json(record))
    return record
