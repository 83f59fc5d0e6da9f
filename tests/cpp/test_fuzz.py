"""What reads files of others, under libFuzzer with AddressSanitizer and UBSan, for some seconds each.

For longer, and with one reader alone::

    SEQEXPORT_FUZZ_SECONDS=600 .venv/bin/python -m pytest tests/cpp/test_fuzz.py -k session

What it finds stays as build/cpp/fuzz/crash-*; ``build/cpp/fuzz/fuzz_session FILE`` runs that one again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from filelock import FileLock
from safetensors.numpy import save

from seqexport.plugins import toolchain
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MODEL, Bundle, write_manifest
from seqexport.runtimes.manifest import FORMAT_VERSION, LanguageModel, Manifest, Source, StateSpec
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.session_file import read_session, write_session
from seqexport.runtimes.snapshot import RECENT, Snapshot
from tests.attacks.bundles import RECORD
from tests.conftest import leave_out
from tests.cpp.embedded import WORK, run
from tests.runtimes.test_external_data import everywhere

SECONDS = int(os.environ.get("SEQEXPORT_FUZZ_SECONDS", "3"))
OPTIMISE = "-O1" if SECONDS > 30 else "-O0"
"""Short runs would compile for longer than they search."""

MEMORY = 2048
"""In MB."""

SOURCES = Path(__file__).parent / "fuzz"
FOLDER = WORK / "fuzz"
VOCAB, CAPACITY = 5, 6
STATES = (
    StateSpec(0, "recurrent_state", ("batch", 2, 2), "float32"),
    StateSpec(0, "conv_state", ("batch", 3, 1), "float16"),
    StateSpec(1, "key", ("batch", 1, "max_len", 2), "float16"),
)


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of fuzz_bundle, fuzz_graph and the others."""
    tools, clang = toolchain.find_toolchain(), shutil.which("clang++")
    if tools.cmake.path is None or tools.make.path is None or clang is None or not _has_libfuzzer(clang):
        leave_out(
            "tests/cpp/fuzz left out: no cmake, or no clang++ with libFuzzer (apt install clang libclang-rt-14-dev)"
        )
    WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / "fuzz.lock"):
        given = {"CMAKE_MAKE_PROGRAM": tools.make.path, "CMAKE_CXX_COMPILER": clang, "CMAKE_BUILD_TYPE": "None",
                 "CMAKE_CXX_FLAGS": f"-Werror {OPTIMISE}"}  # fmt: skip
        definitions = [f"-D{name}={value}" for name, value in given.items()]
        configured = run(tools.cmake.path, "-S", SOURCES, "-B", FOLDER, "-G", tools.generator, *definitions)
        if "nlohmann/json.hpp is needed" in configured.stderr:
            leave_out("tests/cpp/fuzz left out: no nlohmann/json.hpp (apt install nlohmann-json3-dev)")
        assert configured.returncode == 0, configured.stderr
        built = run(tools.cmake.path, "--build", FOLDER, "--parallel", "2")
        assert built.returncode == 0, built.stdout + built.stderr
    return FOLDER


def _has_libfuzzer(clang: str) -> bool:
    source = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    command = [clang, "-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of a few states, whose graph is empty and not held against it: nothing here runs it."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / MODEL).touch()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        architecture="x",
        family="hybrid",
        dtype="float16",
        language_model=LanguageModel(VOCAB, (0,), "last"),
        target="portable",
        opset=20,
        capacity=CAPACITY,
        inputs=(),
        outputs=(),
        states=STATES,
        caches_in_place=False,
        ops={"SelectiveScan": 1},
        source=Source("x", 9, "0.1.0", "2", "5", "2026-01-01", weights="w" * 64),
        files={MODEL: sha256(folder / MODEL)},
    )
    write_manifest(folder, manifest)
    return Bundle(folder, manifest)


def snapshot(*lengths: int) -> Snapshot:
    rng, batch = np.random.default_rng(0), len(lengths)
    states = {spec.past_name: rng.random(spec.sizes(batch, max(lengths))).astype(spec.dtype) for spec in STATES}
    return Snapshot(
        lengths=np.array(lengths, np.int32),
        states=states,
        logits=rng.random((batch, VOCAB)).astype(np.float32),
        recent=np.full((batch, RECENT), 3, np.int64),
        sampling=Sampling(0.9, 3, 0.9, 7),
        generators=np.arange(batch, dtype=np.uint64),
    )


def sessions(bundle: Bundle, corpus: Path) -> None:
    for lengths in ((2,), (3, 1)):
        file = corpus / f"{len(lengths)}"
        write_session(file, bundle, snapshot(*lengths))
        assert read_session(file, bundle).lengths.tolist() == list(lengths)


def tensors(bundle: Bundle, corpus: Path) -> None:
    sessions(bundle, corpus)
    (corpus / "none").write_bytes(save({}))
    (corpus / "some").write_bytes(save({"a": np.zeros((0, 2)), "b": np.ones(3, np.int16)}, {"key": "value"}))


def manifests(bundle: Bundle, corpus: Path) -> None:
    m = bundle.manifest
    grown = tuple(spec for spec in m.states if not spec.grows)
    named = (StateSpec(0, "state", ("batch", 2), "float32", past="past", present="present"),)
    some: dict[str, Manifest] = {
        "hybrid": m,
        "mamba": msgspec.structs.replace(m, capacity=None, states=grown, family="mamba"),
        "named": msgspec.structs.replace(m, capacity=None, states=named),
        "all": msgspec.structs.replace(m, language_model=LanguageModel(VOCAB, (), "all")),
        "none": msgspec.structs.replace(m, language_model=None),
    }
    for name, manifest in some.items():
        (corpus / name).write_bytes(msgspec.json.encode(manifest))
    version_1 = Path(__file__).parent.parent / "runtimes" / "manifest_version_1.json"
    shutil.copy(version_1, corpus / "version_1")


def graphs(bundle: Bundle, corpus: Path) -> None:
    (corpus / "everywhere").write_bytes(everywhere().SerializeToString())
    (corpus / "small").write_bytes(onnx.ModelProto(ir_version=9).SerializeToString())


def records(bundle: Bundle, corpus: Path) -> None:
    named = {"--versionCompatible": "", "--setPluginsToSerialize": ""}
    for name, changes in {
        "some": {},
        "rtx": {"tensorrt": "RTX 1.7.1", "plugins": None},
        "all": {"flags": named},
    }.items():
        (corpus / name).write_text(json.dumps(RECORD | changes))


def plugins(bundle: Bundle, corpus: Path) -> None:
    entry = {
        "file": "x.so",
        "sha256": "0" * 64,
        "seqexport": "0.1.0",
        "built_for": {"cuda": "12.4", "tensorrt": "8.6.1"},
    }
    (corpus / "some").write_text(json.dumps(dict.fromkeys(("kernels", "tensorrt", "onnxruntime"), entry)))
    (corpus / "other").write_text(json.dumps({"tensorrt": {"file": "../x.so"}}))


CORPORA: dict[str, Callable[[Bundle, Path], None]] = {
    "session": sessions,
    "safetensors": tensors,
    "bundle": manifests,
    "graph": graphs,
    "record": records,
    "plugins": plugins,
}


def fuzzed(programs: Path, name: str, bundle: Bundle, *arguments: Any) -> str:
    """What libFuzzer says of a run that found nothing.

    AddressSanitizer holds the limit of memory: libFuzzer's own reads the peak, which a new program has from the
    process that started it.
    """
    options = [f"-artifact_prefix={programs}/", "-timeout=60", "-print_final_stats=1"]
    options += ["-rss_limit_mb=0", f"-malloc_limit_mb={MEMORY}"]
    environment = {
        **os.environ, "SEQEXPORT_BUNDLE": str(bundle.path), "ASAN_OPTIONS": f"hard_rss_limit_mb={MEMORY}"
    }  # fmt: skip
    done = run(programs / f"fuzz_{name}", *options, *arguments, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stderr


@pytest.mark.parametrize("name", CORPORA)
def test_readers_take_whatever_comes(programs: Path, name: str, bundle: Bundle, tmp_path: Path) -> None:
    corpus, garbage = tmp_path / "corpus", tmp_path / "garbage"
    for folder in (corpus, garbage):
        folder.mkdir()
    CORPORA[name](bundle, corpus)
    (garbage / "some").write_bytes(b"nothing of the kind")
    seeds = sorted(corpus.iterdir())
    assert covered(fuzzed(programs, name, bundle, "-runs=0", corpus)) > 1.5 * covered(
        fuzzed(programs, name, bundle, "-runs=0", garbage)
    ), "the corpus is read no further than garbage"
    said = fuzzed(programs, name, bundle, f"-max_total_time={SECONDS}", corpus)
    executed = re.search(r"number_of_executed_units:\s*(\d+)", said)
    assert executed is not None and int(executed[1]) > len(seeds)


def covered(said: str) -> int:
    """Edges of the program that libFuzzer saw taken."""
    return max(int(edges) for edges in re.findall(r"cov: (\d+)", said))
