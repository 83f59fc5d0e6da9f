"""``inspect``, ``verify`` and ``generate`` on bundles that are whole, damaged or foreign, and without PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models

from seqexport.plugins import library
from seqexport.plugins.reading import sha256
from seqexport.runtimes import cublas
from seqexport.runtimes.bundle import MANIFEST, MODEL, REFERENCE, open_bundle, write_manifest
from tests.cli.conftest import Run
from tests.conftest import Exported

COMMANDS: dict[str, tuple[str, ...]] = {"inspect": (), "verify": (), "generate": ("--prompt", "x")}


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped, tmp_path / "bundle"))


def reseal(folder: Path) -> None:
    manifest = open_bundle(folder, check_files=False).manifest
    write_manifest(
        folder, msgspec.structs.replace(manifest, files={name: sha256(folder / name) for name in manifest.files})
    )


def edit_manifest(folder: Path, **changes: object) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def foreign(folder: Path) -> None:
    """A valid graph of another program, with the right hash."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / MODEL)
    reseal(folder)


def invalid(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"not a graph at all")
    reseal(folder)


def perturb(folder: Path) -> None:
    data = folder / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    (weights * 1.001).tofile(data)
    reseal(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (
        lambda f: edit_manifest(f, format_version=99),
        f"{MANIFEST}: format version 99, this seqexport reads 1 to",
    ),
    "hash": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: sha256"),
    "missing": (lambda f: (f / f"{MODEL}.data").unlink(), f"{MODEL}.data: cannot be read (No such file or directory)"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), f"is not a bundle: cannot read {MANIFEST}"),
    "no capacity": (
        lambda f: edit_manifest(
            f, states=[{"layer": 0, "kind": "key", "shape": ["batch", 1, "max_len", 2], "dtype": "float32"}]
        ),
        f"{MANIFEST} is damaged: states that grow, and no capacity",
    ),
    "no JSON": (lambda f: (f / MANIFEST).write_text("{"), f"{MANIFEST} is damaged"),
    "reference": (lambda f: (f / REFERENCE).write_bytes(b"short"), f"{REFERENCE}: sha256"),
}
UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "foreign": (foreign, "its inputs are not those listed (input_ids)"),
    "invalid": (
        invalid,
        "describes: it is no ONNX graph, or cut short; export the model again",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_one_line(name: str, command: str, run: Run, copy: Path) -> None:
    break_it, message = BROKEN[name]
    break_it(copy)
    refusal = run(command, copy, *COMMANDS[command]).refusal
    assert message in refusal
    assert str(copy) in refusal


@pytest.mark.parametrize("command", ["verify", "generate"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_a_graph_that_cannot_be_run_is_one_line(name: str, command: str, run: Run, copy: Path) -> None:
    break_it, message = UNUSABLE[name]
    break_it(copy)
    assert message.format(folder=copy) in run(command, copy, *COMMANDS[command]).refusal


def test_generate_refuses_a_bundle_without_a_vocabulary(run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    assert "bundle is not a language model's" in run("generate", copy, *COMMANDS["generate"]).refusal


@pytest.mark.parametrize("command", ["verify", "compare", "bench"])
def test_a_reference_that_is_a_language_models_is_one_line(command: str, run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    refusal = run(command, copy, *COMMANDS.get(command, ())).refusal
    assert f"{copy / 'reference.safetensors'} is damaged" in refusal


def test_inspect_shows_a_bundle_without_a_vocabulary(run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    result = run("inspect", copy)
    assert (result.code, result.err) == (0, "")
    assert "vocabulary" not in result.out and "mamba (mamba)" in result.out


def test_no_folder_is_one_line(run: Run, tmp_path: Path) -> None:
    for command, more in COMMANDS.items():
        assert "nowhere is not a bundle: cannot read" in run(command, tmp_path / "nowhere", *more).refusal


def test_a_reference_that_is_sealed_but_damaged_is_one_line(run: Run, copy: Path) -> None:
    (copy / REFERENCE).write_bytes(b"nonsense")
    reseal(copy)
    assert f"{REFERENCE} is damaged" in run("verify", copy).refusal


def test_verify_exits_0_within_bounds_and_1_beyond(run: Run, copy: Path) -> None:
    good = run("verify", copy)
    assert (good.code, good.err) == (0, "")
    assert "out of bounds" not in good.out
    perturb(copy)
    bad = run("verify", copy, "--json")
    checks = json.loads(bad.out)
    assert (bad.code, bad.err) == (1, "")
    assert not all(check["passed"] for check in checks)
    assert set(checks[0]) == {"name", "error", "torch_error", "allowed", "not_finite", "passed"}
    assert "out of bounds" in run("verify", copy).out


def test_an_export_that_is_out_of_bounds_is_refused(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.exporter import pipeline

    perturb(copy)
    monkeypatch.setattr(pipeline, "export", lambda *args: open_bundle(copy))
    refusal = run("onnx", "--arch", "mamba").refusal
    assert refusal.startswith(f"{copy} was written, but ")
    assert refusal.endswith(f"see: seqexport verify {copy}")


def test_inspect_shows_the_manifest(run: Run, shipped: Path) -> None:
    result = run("inspect", shipped, "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == json.loads((shipped / MANIFEST).read_text())
    table = run("inspect", shipped).out
    for name in ("input_ids", "conv_state", "recurrent_state", "preset:mamba", MODEL, "SelectiveScan"):
        assert name in table


def test_generate_prints_the_text_and_its_continuation(run: Run, shipped: Path) -> None:
    first, again = (run("generate", shipped, "--prompt", "def ", "--max-new-tokens", 8) for _ in range(2))
    assert (first.code, first.err) == (0, "")
    assert first.out == again.out
    assert first.out.startswith("def ")
    both = run("generate", shipped, "--prompt", "def ", "--prompt", "Return the", "--max-new-tokens", 8)
    assert both.out.startswith(f"--- 1 ---\n{first.out}--- 2 ---\nReturn the")


def test_generate_goes_on_where_it_ended(run: Run, shipped: Path, work: Path) -> None:
    drawn = ("--temperature", 0.9, "--top-k", 30, "--seed", 3)
    whole = run("generate", shipped, "--prompt", "def f(", "--max-new-tokens", 24, *drawn)
    first = run("generate", shipped, "--prompt", "def f(", "--max-new-tokens", 9, *drawn, "--save", "one")
    rest = run("generate", shipped, "--resume", "one", "--max-new-tokens", 15, "--save", "two")
    assert (first.code, rest.code) == (0, 0), first.err + rest.err
    assert first.out.removesuffix("\n") + rest.out == whole.out
    assert run("generate", shipped, "--resume", "two", "--prompt", "\nx", "--max-new-tokens", 1).out.startswith("\nx")


def test_what_generate_does_not_save_or_resume(run: Run, shipped: Path, work: Path) -> None:
    assert run("generate", shipped).refusal == "--prompt: nothing to continue; give a text, or --resume a session"
    wanted = "--save and --resume go with one --prompt to continue, and not with --chat"
    for args in (("--prompt", "x", "--prompt", "y", "--save", "a"), ("--chat", "--prompt", "x", "--resume", "a")):
        assert run("generate", shipped, *args).refusal == wanted
    assert run("generate", shipped, "--prompt", "x", "--save", work).refusal == (
        f"{work}: cannot be written (Is a directory)"
    )
    assert "none: cannot be read" in run("generate", shipped, "--resume", "none").refusal
    assert not list(work.iterdir())


def test_generate_of_byte_tokens_that_fit_no_character(run: Run, copy: Path) -> None:
    """A tokenizer whose tokens are the bytes, as Llama's is for what it has no token for."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.enable_truncation(4)
    (copy / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    reseal(copy)
    for seed in range(4):
        options = ("--temperature", 2, "--seed", seed, "--max-new-tokens", 48)
        alone = run("generate", copy, "--prompt", "def é", *options)
        assert (alone.code, alone.err) == (0, "")
        assert alone.out.startswith("def é")
        both = run("generate", copy, "--prompt", "def é", "--prompt", "def é", *options)
        assert both.out == f"--- 1 ---\n{alone.out}--- 2 ---\n{alone.out}"


def test_backends_give_the_same_text(run: Run, shipped_transformer: Path) -> None:
    ours, theirs = (
        run("generate", shipped_transformer, "--prompt", "The ", "--max-new-tokens", 20, "--backend", backend)
        for backend in ("ort", "torch")
    )
    assert theirs.code == 0
    assert ours.out == theirs.out


def test_bad_requests_to_generate_are_one_line(run: Run, shipped_transformer: Path) -> None:
    def refusal(*args: str) -> str:
        return run("generate", shipped_transformer, *args).refusal

    assert refusal("--prompt", "") == "the prompt is empty: give at least one token of text"
    long = refusal("--prompt", "x" * 9000)
    assert long.startswith("capacity of 9000 tokens: the bundle was exported for at most 8192; shorten the prompt")
    assert "--top-p 2.0: expected --temperature >= 0" in refusal("--prompt", "x", "--top-p", "2")


@pytest.mark.parametrize(
    ("backend", "message"), [("ort", "has no CUDAExecutionProvider here"), ("torch", "no CUDA device")]
)
def test_a_gpu_that_is_not_there_is_one_line(run: Run, shipped: Path, backend: str, message: str) -> None:
    import onnxruntime
    import torch

    if torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a GPU")
    refusal = run("generate", shipped, "--prompt", "x", "--device", "cuda", "--backend", backend).refusal
    assert message in refusal
    assert refusal.endswith("use --device cpu")


def test_no_tokenizer_is_one_line(run: Run, exported: Exported) -> None:
    bundle = exported("mamba", target="portable", logits="last").path
    refusal = run("generate", bundle, "--prompt", "x").refusal
    assert refusal == (
        f"{bundle} has no tokenizer.json: put one beside the checkpoint's weights and export again, "
        "or use the Python API with tokens"
    )


def test_an_original_that_is_gone_is_one_line(run: Run, shipped: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    refusal = run("generate", shipped, "--prompt", "x", "--backend", "torch", "--original", gone).refusal
    assert refusal.startswith(f"{gone}: no such folder")


WITHOUT_PYTORCH = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
from seqexport.exporter.cli import main
main()
"""


def without_pytorch(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_PYTORCH, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["verify"], "logits along decode"),
        (["inspect"], "recurrent_state"),
        (["generate", "--prompt", "def ", "--max-new-tokens", "4"], "def "),
    ],
    ids=["verify", "inspect", "generate"],
)
def test_a_machine_without_pytorch_runs_bundles(shipped: Path, args: list[str], expected: str) -> None:
    result = without_pytorch(args[0], shipped, *args[1:])
    assert (result.returncode, result.stderr) == (0, "")
    assert expected in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "--prompt", "x", "--backend", "torch"], "the backend 'torch' needs torch"),
        (["onnx"], "exporting needs"),
        (["onnx", "--module", "m:f", "--input", "x=1"], "exporting needs"),
    ],
    ids=["generate", "onnx", "module"],
)
def test_a_machine_without_pytorch_says_what_needs_it(shipped: Path, args: list[str], message: str) -> None:
    result = without_pytorch(args[0], *([shipped] if args[0] == "generate" else []), *args[1:])
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.endswith("pip install 'seqexport[export]'\n")


def test_doctor_says_what_works_and_what_does_not(run: Run) -> None:
    result = run("doctor")
    assert (result.code, result.err) == (0, "")
    assert "✓ │ ONNX Runtime on CPU" in result.out
    without = without_pytorch("doctor")
    assert (without.returncode, without.stderr) == (0, "")
    assert "not importable: No module named 'torch'" in without.stdout


@pytest.mark.parametrize("command", [["doctor"], ["plugins", "list"]], ids=" ".join)
def test_words_are_whole_on_a_narrow_terminal(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    words = {word for word in run(*command).out.split() if word.isascii()}
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = run(*command).out
        assert max(map(len, shown.splitlines())) <= width
        assert [word for word in words if len(word) < width - 14 and word not in shown] == []


@pytest.mark.parametrize(
    ("place", "row"),
    [
        ("/pip/libcublasLt.so.13", ["✓", "cuBLASLt", "/pip/libcublasLt.so.13", ""]),
        (None, ["–", "cuBLASLt", "not on the library path or in pip's packages", cublas.INSTALL]),
    ],
    ids=["found", "missing"],
)
def test_doctor_says_where_cublaslt_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: str | None, row: list[str]
) -> None:
    asked: list[int] = []
    built = library.Built("tensorrt", Path("lib.so"), "0", "0.1.0", {"cuda": "12.2.0"})
    monkeypatch.setattr(library, "built", lambda: {"tensorrt": built})
    monkeypatch.setattr(cublas, "load", lambda major: asked.append(major) or place)
    monkeypatch.setenv("COLUMNS", "400")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run("doctor").out.splitlines()]
    assert row in rows
    assert asked == [12]


def test_what_is_not_finite_is_named_and_json_stays_strict(run: Run, copy: Path) -> None:
    data = copy / f"{MODEL}.data"
    weights = np.fromfile(data, np.float32)
    weights[-1000:] = np.nan
    weights.tofile(data)
    reseal(copy)
    told = run("verify", copy)
    assert told.code == 1
    assert "not finite: logits after prefill, prefill whole: prefill.logits: " in told.out
    strict = run("verify", copy, "--json")
    checks = json.loads(strict.out, parse_constant=pytest.fail)
    assert (strict.code, strict.err) == (1, "")
    assert any(check["error"] is None and not check["passed"] and check["not_finite"] for check in checks)
    for sampling in (
        [],
        ["--temperature", 1],
        ["--temperature", 1, "--top-k", 5],
        ["--temperature", 1, "--top-p", 0.5],
    ):
        refusal = run("generate", copy, "--prompt", "def ", *sampling).refusal
        assert refusal.startswith("the logits of sequence 1 after 4 tokens are not finite on ort in float32: ")


@pytest.fixture
def chatting(shipped: Path, tmp_path: Path) -> Path:
    """A bundle with a chat template."""
    folder = Path(shutil.copytree(shipped, tmp_path / "chat"))
    template = folder / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    manifest = open_bundle(shipped).manifest
    files = {**manifest.files, template.name: sha256(template)}
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder


def test_a_chat_answers_without_its_prompt(run: Run, chatting: Path) -> None:
    prompt = "system: Be brief.\nuser: Hi\nassistant:"
    whole = run("generate", chatting, "--prompt", prompt, "--max-new-tokens", 8).out
    answer = run("generate", chatting, "--chat", "--system", "Be brief.", "--prompt", "Hi", "--max-new-tokens", 8)
    assert prompt + answer.out == whole
    several = run(
        "generate", chatting, "--chat", "--system", "Be brief.", *["--prompt", "Hi"] * 2, "--max-new-tokens", 8
    )
    assert several.out == f"--- 1 ---\n{answer.out}--- 2 ---\n{answer.out}"


def test_chats_that_cannot_be(run: Run, shipped: Path) -> None:
    assert "has no chat template" in run("generate", shipped, "--chat", "--prompt", "Hi").refusal
    refusal = run("generate", shipped, "--system", "x", "--prompt", "Hi").refusal
    assert refusal == "--system: only a chat has a system message; add --chat"


def test_options_of_another_backend_are_refused_as_flags(run: Run, shipped: Path) -> None:
    refusal = run("generate", shipped, "--backend", "torch", "--no-plugins", "--prompt", "x").refusal
    assert refusal.startswith(
        "--no-plugins: not an option of backend torch; those are: --device, --original, --threads"
    )


def test_inspect_tells_what_fits_a_board(run: Run, shipped: Path) -> None:
    told = run("inspect", shipped, "--device", "Raspberry Pi 5 8GB", "--batch", "2")
    assert (told.code, told.err) == (0, "")
    for line in ("on Raspberry Pi 5 8GB", "ONNX Runtime, float32", "2 of 2,048 tokens", "weights", "together", "floor"):
        assert line in " ".join(told.out.split())
    fit = json.loads(run("inspect", shipped, "--device", "raspberry-pi-5-8gb", "--batch", "2", "--json").out)
    assert fit["fits"] == {"run": True, "load": True} and fit["batch"] == 2
    assert sum(part["bytes"] for part in fit["parts"] if "run" in part["phases"]) == fit["needed"]["run"] < fit["free"]


def test_inspect_exits_1_where_a_board_cannot_hold_a_bundle(run: Run, shipped_transformer: Path) -> None:
    told = run("inspect", shipped_transformer, "--device", "jetson-nano-4gb", "--batch", "400")
    assert (told.code, told.err) == (1, "")
    assert "no" in told.out and "- one sequence at a time: --batch 1" in told.out


def test_what_inspect_refuses_about_boards(run: Run, shipped_transformer: Path) -> None:
    assert (
        "no board 'orin-nano-9gb': the nearest are orin-nano-8gb"
        in run("inspect", shipped_transformer, "--device", "orin-nano-9gb").refusal
    )
    assert "--batch and --len go with --device" in run("inspect", shipped_transformer, "--len", "8").refusal
    refusal = run("inspect", shipped_transformer, "--device", "l4", "--len", "8193").refusal
    assert "--len 8193: the bundle was exported for at most 8192" in refusal
