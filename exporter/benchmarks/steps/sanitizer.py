"""compute-sanitizer over a short list of calls of every kernel."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed
from seqexport.plugins import library
from seqexport.plugins.toolchain import find_toolchain

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CASES = SOURCE / "tests" / "kernels" / "sanitizer_cases.cu"
FOUND, LAST_LINE = 99, "all cases ran"


def run(setting: Setting) -> Iterator[Row]:
    nvcc = find_toolchain().nvcc.path
    if nvcc is None:
        raise LeftOut("no nvcc")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(nvcc.parent))
    if sanitizer is None:
        raise LeftOut("no compute-sanitizer; the CUDA Toolkit brings it")
    if not CASES.exists():
        raise LeftOut(f"no {CASES}: it is in the source checkout, not in the wheel")
    program = _compile(setting, nvcc)
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        yield from pool.map(lambda tool: _check(setting, sanitizer, tool, program), TOOLS)


def _compile(setting: Setting, nvcc: Path) -> Path:
    kernels = _named_as_it_is_loaded(setting, library.require("kernels").path)
    program = setting.work / "sanitizer_cases"
    headers = Path(library.__file__).resolve().parent / "kernels"
    architecture = f"-gencode=arch=compute_{setting.gpu.capability},code=sm_{setting.gpu.capability}"
    link = [kernels, f"-Xlinker=-rpath,{kernels.parent}"]
    setting.run([nvcc, "-std=c++17", architecture, "-I", headers, CASES, *link, "-o", program], log="sanitizer-compile")
    return program


def _named_as_it_is_loaded(setting: Setting, kernels: Path) -> Path:
    """A link: a program asks for the library by the name that it was linked under, and its file has its hash in it."""
    link = setting.work / "sanitizer" / library.FILES["kernels"]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(kernels.resolve())
    return link


def _check(setting: Setting, sanitizer: str, tool: str, program: Path) -> Row:
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), program]
    try:
        output = setting.run(command, log=f"sanitizer-{tool}", allowed=(0, FOUND))
    except StepFailed as failure:
        return Row(tool, passed=False, detail={"summary": str(failure)})
    summary = re.findall(r"SUMMARY: (.*)", output)
    clean = bool(summary) and summary[-1].startswith("0 ") and LAST_LINE in output
    return Row(tool, passed=clean, detail={"summary": summary[-1] if summary else "it printed no summary"})
