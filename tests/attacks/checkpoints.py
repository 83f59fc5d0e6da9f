"""Checkpoints whose config, weights' header or tokenizer somebody has changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from safetensors.numpy import load_file, save_file

from tests.attacks.attack import OUTPUT, Attack, Case, linked_copy, put
from tests.attacks.mutations import EVIL, mutated, scrambled

MODULES = ("seqexport.exporter.pipeline", "seqexport.exporter.api", "seqexport.exporter.commands.onnx", "onnxruntime",
           "transformers.models.llama.modeling_llama", "transformers.models.mamba.modeling_mamba")  # fmt: skip
EXPORT = ("onnx", "--model", "checkpoint", "-o", OUTPUT, "--no-verify")
INDEX = "model.safetensors.index.json"
SIZES = ("num_hidden_layers", "vocab_size", "max_position_embeddings", "sliding_window", "architectures",
         "eos_token_id", "hidden_size", "model_type", "layer_types", "dtype", "num_attention_heads")  # fmt: skip


@dataclass(frozen=True)
class Bases:
    """What is attacked: checkpoints that are sound."""

    checkpoints: tuple[Path, ...]

    def attack(self, case: Case, random: Random) -> Attack:
        """Make a hostile folder, and say what meets it."""
        folder = case.work / "checkpoint"
        linked_copy(random.choice(self.checkpoints), folder)
        return random.choice(MAKERS)(folder, random)


def _config(folder: Path, random: Random) -> Attack:
    value = json.loads((folder / "config.json").read_text())
    put(folder / "config.json", mutated(value, random, random.randint(1, 3)))
    return Attack("a config's values", EXPORT)


def _size(folder: Path, random: Random) -> Attack:
    value = json.loads((folder / "config.json").read_text())
    name = random.choice(SIZES)
    value[name] = random.choice(EVIL)
    put(folder / "config.json", json.dumps(value).encode())
    return Attack(f"{name} {str(value[name])[:40]}", EXPORT)


def _config_bytes(folder: Path, random: Random) -> Attack:
    put(folder / "config.json", scrambled((folder / "config.json").read_bytes(), random))
    return Attack("a config's bytes", EXPORT)


def _generation(folder: Path, random: Random) -> Attack:
    value = {"eos_token_id": [1, 2], "bos_token_id": 0, "transformers_version": "5.0.0", "max_length": 20}
    put(folder / "generation_config.json", mutated(value, random, 2))
    return Attack("a generation config", EXPORT)


def _weights(folder: Path, random: Random) -> Attack:
    data = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = mutated(json.loads(data[8:end]), random)
    put(folder / "model.safetensors", len(header).to_bytes(8, "little") + header + data[end:])
    return Attack("weights' header", EXPORT)


def _integers(folder: Path, random: Random) -> Attack:
    arrays = load_file(folder / "model.safetensors")
    name = random.choice(list(arrays))
    arrays[name] = arrays[name].astype(random.choice(("int32", "int64", "uint8", "bool")))
    (folder / "model.safetensors").unlink()
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    return Attack(f"integers in {name}", EXPORT)


def _index(folder: Path, random: Random) -> Attack:
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    value = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(arrays, "model-1.safetensors")}
    put(folder / INDEX, mutated(value, random, random.randint(1, 3)))
    return Attack("an index", EXPORT)


def _texts(folder: Path, random: Random) -> Attack:
    file = folder / random.choice(("vocab.json", "merges.txt", "tokenizer.model", "vocab.txt", "tokenizer_config.json"))
    put(file, random.choice((b"", b"x", b"\xff" * 100, mutated({"a": 1, "b": 2}, random), random.randbytes(200))))
    return Attack(file.name, EXPORT)


MAKERS = (_config, _config, _size, _size, _config_bytes, _generation, _weights, _integers, _index, _texts)
