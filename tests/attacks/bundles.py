"""Bundles, sessions, engines' records and plugin manifests that somebody has changed, and sealed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from safetensors import safe_open
from safetensors.numpy import load_file, save

from seqexport.plugins.library import MANIFEST as PLUGINS
from seqexport.plugins.library import version
from seqexport.runtimes.bundle import MANIFEST, MODEL, REFERENCE
from seqexport.runtimes.session_file import sealed
from tests.attacks.attack import Attack, Case, linked_copy, put
from tests.attacks.mutations import mutated, scrambled

MODULES = ("seqexport.exporter.api", "seqexport.runtimes.ort.runner", "seqexport.runtimes.comparison.verify",
           "seqexport.runtimes.tokenizer", "seqexport.runtimes.model", "seqexport.runtimes.trt.record",
           "seqexport.exporter.commands.inspect", "seqexport.exporter.commands.verify",
           "seqexport.exporter.commands.generate", "seqexport.exporter.commands.tokens",
           "seqexport.exporter.commands.plugins")  # fmt: skip
INSPECT = ("inspect", "bundle")
VERIFY = ("verify", "bundle", "--threads", "1")
GENERATE = ("generate", "bundle", "--threads", "1", "--max-new-tokens", "2", "--prompt", "def ")
TEXT = (("tokens", "bundle", "--prompt", "The state"), GENERATE, (*GENERATE, "--chat"))
RESUME = ("generate", "bundle", "--threads", "1", "--max-new-tokens", "2", "--resume", "talk.safetensors")
LOOKS = (INSPECT, (*INSPECT, "--json"), (*INSPECT, "--device", "orin-nano-8gb"))

RECORD: dict[str, Any] = {
    "format_version": 1, "plan": "x-trt8.6.0.plan", "sha256": "0" * 64, "gpu": "NVIDIA H100",
    "compute_capability": "9.0", "tensorrt": "8.6.0", "seqexport": "0.1.0",
    "plugins": {"sha256": "0" * 64, "version": "0.1.0"}, "model_sha256": "0" * 64,
    "profiles": {"decode": {"input_ids": [[1, 1], [1, 1], [4, 1]]}}, "flags": {"--fp16": ""},
    "date": "2026-01-01 00:00 UTC", "weights_sha256": "0" * 64,
}  # fmt: skip


@dataclass(frozen=True)
class Bases:
    """What is attacked: bundles that are sound, and a session of the first."""

    bundles: tuple[Path, ...]
    session: Path

    def attack(self, case: Case, random: Random) -> Attack:
        """Make a hostile folder, and say what meets it."""
        base = random.choice(self.bundles)
        linked_copy(base, case.work / "bundle")
        make = random.choice(MAKERS)
        if make is _session:
            base = self.bundles[0]
            put(case.work / "talk.safetensors", self.session.read_bytes())
        return make(case.work / "bundle", random)


def reseal(folder: Path) -> None:
    """The manifest's sha256 of each file that is there."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {name for name in manifest["files"] if (folder / name).is_file()}
    manifest["files"] |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    put(folder / MANIFEST, json.dumps(manifest).encode())


def _manifest(folder: Path, random: Random) -> Attack:
    value = json.loads((folder / MANIFEST).read_text())
    put(folder / MANIFEST, mutated(value, random, random.randint(1, 3)))
    return Attack("a manifest's values", random.choice((*LOOKS, VERIFY, GENERATE)))


def _manifest_bytes(folder: Path, random: Random) -> Attack:
    put(folder / MANIFEST, scrambled((folder / MANIFEST).read_bytes(), random))
    return Attack("a manifest's bytes", INSPECT)


def _reference_header(folder: Path, random: Random) -> Attack:
    data = (folder / REFERENCE).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    texts = header["__metadata__"]
    if random.random() < 0.5:
        name = random.choice(list(texts))
        texts[name] = mutated(json.loads(texts[name]), random).decode()
        changed = json.dumps(header).encode()
    else:
        changed = mutated(header, random)
    put(folder / REFERENCE, len(changed).to_bytes(8, "little") + changed + data[end:])
    reseal(folder)
    return Attack("a reference's header", VERIFY)


def _reference_arrays(folder: Path, random: Random) -> Attack:
    with safe_open(folder / REFERENCE, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(folder / REFERENCE)
    common = ("tokens", "seq_lens", "next_tokens")
    name = random.choice((*common, random.choice(list(arrays))))
    array = arrays[name]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: array[..., None], lambda: array[:0], lambda: array.reshape(-1), lambda: np.repeat(array, 3, 0),
        lambda: np.full_like(array, -1), lambda: np.full_like(array, 10**9), lambda: array.astype(np.float16),
        lambda: np.resize(array, (*array.shape[:-1], 200_000)), lambda: np.zeros((2**20, 0), array.dtype),
        lambda: array * np.inf,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        arrays[name] = np.ascontiguousarray(random.choice(changes)())
    put(folder / REFERENCE, save(arrays, metadata))
    reseal(folder)
    return Attack(f"a reference's {name}", VERIFY)


def _text(folder: Path, random: Random) -> Attack:
    file = folder / random.choice(("tokenizer.json", "tokenizer_config.json"))
    value = json.loads(file.read_text())
    if file.name != "tokenizer.json":
        value["chat_template"] = "{{ messages[0]['content'] }}"
    put(file, mutated(value, random, random.randint(1, 3)))
    reseal(folder)
    return Attack(f"{file.name}'s values", random.choice(TEXT))


def _record(folder: Path, random: Random) -> Attack:
    (folder / "engines").mkdir()
    put(folder / "engines" / "x-trt8.6.0.json", mutated(RECORD, random, random.randint(1, 3)))
    return Attack("an engine's record", INSPECT)


def _plugins(folder: Path, random: Random) -> Attack:
    entry = {"file": "x.so", "sha256": "0" * 64, "seqexport": version(), "built_for": {"cuda": "12.4"}}
    put(folder.parent / "x.so", b"no library")
    put(folder.parent / PLUGINS, mutated(dict.fromkeys(("kernels", "tensorrt", "onnxruntime"), entry), random, 2))
    arguments = random.choice((("plugins", "list"), VERIFY))
    return Attack("a manifest of plugins", arguments, environment={"SEQEXPORT_PLUGINS": str(folder.parent)})


def _places(folder: Path, random: Random) -> Attack:
    """Weights in places that are none of the bundle's."""
    model = onnx.load(folder / MODEL, load_external_data=False)
    outside = str(folder.parent.parent / "outside" / "secret")
    (folder / "within").symlink_to(folder.parent.parent / "outside")
    place = random.choice(
        ("../../outside/secret", outside, "within/secret", "*/_ORT_MEM_ADDR_/*", "", "..", "/dev/zero", MODEL, "a\0b")
    )
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    put(folder / MODEL, model.SerializeToString())
    manifest = json.loads((folder / MANIFEST).read_text())
    if random.random() < 0.5:
        manifest["files"][place] = "0" * 64
    put(folder / MANIFEST, json.dumps(manifest).encode())
    reseal(folder)
    return Attack(f"weights in {place!r}", random.choice((INSPECT, VERIFY, GENERATE)))


def _bytes(folder: Path, random: Random) -> Attack:
    """Not sealed again."""
    file = random.choice(sorted(folder.iterdir()))
    put(file, scrambled(file.read_bytes(), random))
    return Attack(f"{file.name}'s bytes", random.choice((INSPECT, VERIFY, GENERATE)))


def _session(folder: Path, random: Random) -> Attack:
    file = folder.parent / "talk.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    if random.random() < 0.6:
        header = mutated(json.loads(data[8:end]), random)
        data = len(header).to_bytes(8, "little") + header + data[end:]
    else:
        data = scrambled(data, random)
    put(file, sealed(data))
    return Attack("a session", RESUME)


MAKERS = (_manifest, _manifest, _manifest_bytes, _reference_header, _reference_arrays, _text, _text, _record, _plugins,
          _places, _bytes, _session)  # fmt: skip
