"""libseqexport on TensorRT says what ONNX Runtime says in Python; on a fake GPU (fake_gpu), under sanitizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seqexport.exporter.benchmarks.steps.embedded import speed_rows
from seqexport.plugins import library
from seqexport.plugins.library import Built
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.sampling import Sampling
from tests.conftest import Exported
from tests.cpp import gpu
from tests.cpp.embedded import Embedding, Installed
from tests.cpp.test_sessions import CAPACITY, DRAWN, LENGTHS, ROWS, SAMPLED, flags, flat

PROMPT = [84, 104, 101, 32, 99, 97, 116, 32, 115, 97, 116, 32]
PRESETS = ("mamba", "mamba2", "transformer", "hybrid")

Copied = Callable[..., Bundle]
"""A copy of a preset's bundle with an engine; options are those of ``gpu.add_engine``."""


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Copied:
    def make(preset: str, *, dtype: str = "float32", logits: str = "last", **engine: object) -> Bundle:
        source = exported(f"preset:{preset}", target="portable", dtype=dtype, logits=logits)
        bundle = open_bundle(Path(shutil.copytree(source.path, tmp_path / f"{preset}-{len(list(tmp_path.iterdir()))}")))
        gpu.add_engine(bundle, **engine)  # type: ignore[arg-type]
        return bundle

    return make


@pytest.fixture(scope="session")
def our_plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu.plugin_library(tmp_path_factory.mktemp("plugins"))


def ints(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def counted(tmp_path: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads((tmp_path / "report").read_text())
    return counts


@pytest.mark.parametrize("plugins", [True, False], ids=["plugins", "bodies"])
@pytest.mark.parametrize("preset", PRESETS)
def test_tokens_and_files_are_those_of_python(
    on_tensorrt: Installed, copied: Copied, our_plugins: Path, preset: str, plugins: bool, tmp_path: Path
) -> None:
    bundle = copied(preset, plugins=plugins)
    with OrtRunner(bundle, threads=1) as runner, runner.session() as session:
        session.prefill(np.array([PROMPT]))
        expected = flat(session.generate(20, SAMPLED))
        session.save(tmp_path / "python")
        rest = flat(session.generate(10))
    given = [bundle.path, *(["--plugins", our_plugins] if plugins else [])]
    report = {"FAKE_GPU_REPORT": str(tmp_path / "report")}

    made = on_tensorrt.run(*given, *flags(PROMPT, DRAWN), "--max-new-tokens=20", "--save", tmp_path / "cpp", env=report)

    assert (made.code, made.err) == (0, "")
    assert ints(made.out) == expected
    counts = counted(tmp_path)
    in_one_place = plugins and preset == "transformer"
    assert counts["captures"] == (1 if in_one_place else 2) and counts["launches"] == 19
    assert counts["enqueued"] == 3 + 1 + counts["captures"]
    resumed = on_tensorrt.run(*given, "--resume", tmp_path / "python", "--max-new-tokens=10")
    assert ints(resumed.out) == rest
    with OrtRunner(bundle, threads=1) as runner, runner.restore(tmp_path / "cpp") as session:
        assert flat(session.generate(10)) == rest


@pytest.mark.parametrize("logits", ["last", "all"])
def test_states_of_float16(on_tensorrt: Installed, copied: Copied, logits: str, tmp_path: Path) -> None:
    bundle = copied("hybrid", dtype="float16", logits=logits, plugins=False)
    with OrtRunner(bundle, threads=1) as runner, runner.session() as session:
        session.prefill(np.array([PROMPT]))
        session.save(tmp_path / "python")
        expected = flat(session.generate(8))
    made = on_tensorrt.run(bundle.path, f"--tokens={','.join(map(str, PROMPT))}", "--max-new-tokens=8")
    assert ints(made.out) == expected
    resumed = on_tensorrt.run(bundle.path, "--resume", tmp_path / "python", "--max-new-tokens=8")
    assert ints(resumed.out) == expected


@pytest.mark.parametrize("logits", ["last", "all"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_ragged_batch_forked_and_rewound(
    on_tensorrt: Installed, copied: Copied, our_plugins: Path, preset: str, logits: str, tmp_path: Path
) -> None:
    bundle = copied(preset, logits=logits, shortest=2)
    with OrtRunner(bundle, threads=1) as runner, runner.session(2, CAPACITY) as session:
        session.keep(4, 1 << 24)
        session.prefill(np.array(ROWS), np.array(LENGTHS, np.int32))
        expected, rest = flat(session.generate(12, SAMPLED)), flat(session.generate(6))
        back = session.rewind(14)
        again = flat(session.generate(4))
    report = {"FAKE_GPU_REPORT": str(tmp_path / "report")}
    with Embedding(on_tensorrt.embedding, bundle.path, our_plugins, env=report) as program:
        program("open", 2, CAPACITY)
        program("keep", 4, 1 << 24)
        assert program("ragged", *LENGTHS, *(token for row in ROWS for token in row)) == "6"
        assert program.tokens("generate", 12, 0, *DRAWN) == expected
        assert program.tokens("fork", 6, 0) == rest
        assert program.tokens("generate", 6, 2) == rest[:4]
        assert program.tokens("generate", 4, 0) == rest[4:]
        assert program("rewind", 14) == str(back)
        assert program.tokens("generate", 4, 0) == again
        assert program("reset") == "0"
        assert "the prompt is empty" in program("generate", 1, 0)
    assert counted(tmp_path)["copies_within"] > 0


def test_sessions_in_threads_say_the_same(on_tensorrt: Installed, copied: Copied, our_plugins: Path) -> None:
    bundle = copied("hybrid", longest=64)
    with OrtRunner(bundle, threads=1) as runner, runner.session() as session:
        session.prefill(np.array([PROMPT[:4]]))
        expected = flat(session.generate(12, Sampling(1, 40, 0.9, 3)))
    with Embedding(on_tensorrt.embedding, bundle.path, our_plugins) as program:
        assert program.tokens("crowd") == expected


def test_without_graphs(on_tensorrt: Installed, copied: Copied, tmp_path: Path) -> None:
    bundle = copied("mamba", plugins=False)
    words = [bundle.path, f"--tokens={','.join(map(str, PROMPT))}", "--max-new-tokens=12"]
    report = {"FAKE_GPU_REPORT": str(tmp_path / "report")}
    expected = on_tensorrt.run(*words)
    made = on_tensorrt.run(*words, env={**report, "FAKE_GPU_REFUSES": "capture"})
    assert made.code == 0 and made.out == expected.out != "\n"
    assert counted(tmp_path)["launches"] == 0


def test_steps_take_no_memory(on_tensorrt: Installed, copied: Copied, tmp_path: Path) -> None:
    bundle, taken = copied("hybrid", plugins=False), []
    for count in (4, 40):
        env = {"FAKE_GPU_REPORT": str(tmp_path / "report")}
        on_tensorrt.run(bundle.path, "--tokens=84,104", f"--max-new-tokens={count}", env=env)
        taken.append(counted(tmp_path)["allocations"])
    assert taken[0] == taken[1]


def test_closed_sessions_give_their_memory_back(on_tensorrt: Installed, copied: Copied, tmp_path: Path) -> None:
    bundle, peaks = copied("mamba", plugins=False), []
    for sessions in (2, 50):
        env = {"FAKE_GPU_REPORT": str(tmp_path / "report")}
        with Embedding(on_tensorrt.embedding, bundle.path, env=env) as program:
            for _ in range(sessions):
                program("open", 1, 0)
                program("prefill", *PROMPT)
                assert len(program.tokens("generate", 3, 0)) == 3
        peaks.append(counted(tmp_path)["peak"])
    assert peaks[0] == peaks[1]


def test_a_step_that_fails_leaves_the_session_as_it_was(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("mamba", plugins=False, longest=64)
    with Embedding(on_tensorrt.embedding, bundle.path) as program:
        program("open", 1, 0)
        program("prefill", *PROMPT)
        expected = program.tokens("generate", 6, 0)
    with Embedding(on_tensorrt.embedding, bundle.path, env={"FAKE_GPU_FAILS_AT": "1"}) as program:
        program("open", 1, 0)
        assert program("prefill", *PROMPT) == "error 4: TensorRT 8.6.2 failed"
        assert program("prefill", *PROMPT) == str(len(PROMPT))
        assert program.tokens("generate", 6, 0) == expected


def test_out_of_memory(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("transformer", plugins=False)
    with Embedding(on_tensorrt.embedding, bundle.path, env={"FAKE_GPU_BYTES": str(1 << 20)}) as program:
        answer = program("open", 4, 4096)
        assert answer.startswith("error 7: device memory: wanted ") and "use a smaller batch or capacity" in answer
        program("open", 1, 16)
        assert program("prefill", *PROMPT) == str(len(PROMPT))


def test_what_an_engine_does_not_take(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("transformer", plugins=False, max_len=64)
    with Embedding(on_tensorrt.embedding, bundle.path) as program:
        assert program("open", 5, 8).startswith("error 1: batch of 5: the engine takes 1 to 4 sequences; build one on")
        assert program("open", 1, 65).startswith(
            "error 1: capacity of 65 tokens: the engine's caches hold 64; give less"
        )


def test_bench(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("mamba", plugins=False)
    done = on_tensorrt.run(bundle.path, "--inputLen=6", "--iterations=3", "--json", tool="seqexport-bench")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["runtime"] == "TensorRT 8.6.2, Fake GPU, function bodies, target portable"


def test_what_the_gpu_run_times(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("hybrid", plugins=False, longest=64)
    program = gpu.WORK / "tensorrt" / "library" / "seqexport-embedded-speed"
    done = gpu.run(program, bundle.path, "--steps=6", "--prompt=40", "--sessions=10")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["decode"]["captured"] and found["disk"]["prompt"] == 40
    free = [each["device_free"] for each in found["flat"]["seen"]]
    assert [each["sessions"] for each in found["flat"]["seen"]] == [1, 10] and free[0] == free[1]
    assert all(row.passed is not False for row in speed_rows("hybrid", found))


def test_a_plan_that_serves_later_versions_and_carries_its_plugins(on_tensorrt: Installed, copied: Copied) -> None:
    changes = {"tensorrt": "8.5.3", "flags": {"--versionCompatible": "", "--setPluginsToSerialize": ""}}
    bundle = copied("mamba", **changes)
    shown = on_tensorrt.run(bundle.path, "--tokens=84", "--max-new-tokens=1", "--verbose")
    assert shown.err == f"TensorRT 8.6.2, Fake GPU, plugins of seqexport {library.version()}, target portable\n"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"tensorrt": "10.3.0"},
            ".plan: built for Fake GPU, TensorRT 10.3.0, and this is Fake GPU, TensorRT 8.6.2;",
        ),
        ({"gpu": "Orin", "compute_capability": "8.7"}, ".plan: built for Orin, TensorRT 8.6.2, and this is Fake GPU, "),
        ({"sha256": "0" * 64}, ".plan: sha256 "),
        ({"model_sha256": "0" * 64}, ".plan: built from another model than "),
        ({"weights_sha256": "0" * 64}, ".plan: built from another model than "),
        ({"plan": "gone.plan"}, "gone.plan: missing, though its record is there; build"),
        ({"plan": "../x.plan"}, ".json is no engine's record: a plan in another folder; build"),
        ({"format_version": 2}, ".json is no engine's record: format version 2, expected 1; build"),
        ({"profiles": {}}, ": has no profile prefill"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_engines_that_do_not_run_here(
    on_tensorrt: Installed, copied: Copied, changes: dict[str, object], told: str
) -> None:
    bundle = copied("mamba", plugins=False, **changes)
    assert told in on_tensorrt.run(bundle.path, "--tokens=84").refusal


def test_no_engine_and_damaged_ones(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("mamba", plugins=False)
    engines = bundle.path / "engines"
    record = (engines / gpu.PLAN).with_suffix(".json")

    def refusal(**env: str) -> str:
        return on_tensorrt.run(bundle.path, "--tokens=84", env=env).refusal

    for content, cause in ((b"no plan", "the plan makes no sense"), (b"", "out of memory")):
        (engines / gpu.PLAN).write_bytes(content)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": gpu.sha256(engines / gpu.PLAN)}))
        assert f"TensorRT 8.6.2 cannot load {engines / gpu.PLAN} ({cause}); " in refusal()
    whole = record.read_text()
    for place in (0, 1, len(whole) // 2, len(whole) - 2):
        record.write_text(whole[:place])
        assert f"{record} is no engine's record: " in refusal()
    record.write_text(whole)
    record.rename(engines / "another.json")
    moved = json.loads(whole) | {"gpu": "Orin"}
    (engines / "another.json").write_text(json.dumps(moved))
    assert (
        f"{engines} has engines for: Orin, TensorRT 8.6.2; build one on this machine with: seqexport build" in refusal()
    )
    shutil.rmtree(engines)
    assert f"{bundle.path} has no engine for Fake GPU, TensorRT 8.6.2; build one" in refusal()
    assert "no CUDA device (no CUDA-capable device is detected): TensorRT runs on" in refusal(FAKE_GPU_COUNT="0")


def test_devices(on_tensorrt: Installed, copied: Copied) -> None:
    bundle = copied("mamba", plugins=False)
    beyond = on_tensorrt.run(bundle.path, "--tokens=84", "--device=1").refusal
    assert "device 1: expected 0 to 0, the GPUs that CUDA has here" in beyond
    other = on_tensorrt.run(bundle.path, "--tokens=84", "--device=1", env={"FAKE_GPU_COUNT": "2"}).refusal
    assert "has no engine for Fake GPU 1, TensorRT 8.6.2" in other


def test_plugin_libraries(on_tensorrt: Installed, copied: Copied, our_plugins: Path, tmp_path: Path) -> None:
    bundle = copied("mamba")

    def refusal(*words: object) -> str:
        return on_tensorrt.run(bundle.path, "--tokens=84", *words, env={"SEQEXPORT_PLUGINS": str(tmp_path)}).refusal

    assert f"{tmp_path / 'libseqexport_tensorrt.so'}: not built on this machine; build it: seqexport" in refusal()
    assert f"{tmp_path / 'x.so'}: no such file; --plugins takes the path of" in refusal("--plugins", tmp_path / "x.so")
    cut = tmp_path / "cut.so"
    cut.write_bytes(our_plugins.read_bytes()[:1000])
    assert f"{cut}: damaged, not a whole shared library" in refusal("--plugins", cut)
    older = gpu.plugin_library(tmp_path / "older", version="0.0.9")
    assert "its engine was built with the plugins of seqexport" in refusal("--plugins", older)
    another = gpu.plugin_library(tmp_path / "another", tensorrt="10.3.0")
    assert f"{another}: built for TensorRT 10.3.0, this is TensorRT 8.6.2" in refusal("--plugins", another)
    assert "its engine was built with plugins, and none are wanted" in refusal("--no-plugins")

    file = Path(shutil.copy(our_plugins, tmp_path / "libseqexport_tensorrt.so"))
    assert "not built on this machine" in refusal()  # no manifest says whose it is
    built = Built("tensorrt", file, sha256(file), library.version(), {"tensorrt": gpu.VERSION})
    (tmp_path / library.MANIFEST).write_bytes(library.manifest_of([built]))
    env = {"SEQEXPORT_PLUGINS": str(tmp_path)}
    assert on_tensorrt.run(bundle.path, "--tokens=84", "--max-new-tokens=1", env=env).code == 0


def test_a_program_that_was_compiled_for_another_plugin_registry(
    on_tensorrt: Installed, copied: Copied, our_plugins: Path
) -> None:
    bundle = copied("mamba", tensorrt="8.6.0")
    words = (bundle.path, "--tokens=84", "--plugins", our_plugins)
    told = on_tensorrt.run(*words, env={"FAKE_TENSORRT_VERSION": "8600"}).refusal
    assert f"TensorRT 8.6.0 is here, and this program was compiled with the headers of {gpu.VERSION}: " in told
