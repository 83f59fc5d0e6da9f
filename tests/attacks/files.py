"""What a file system can put in a file's place: pipes, devices, links, folders, names without end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from seqexport.runtimes.bundle import MANIFEST, MODEL, REFERENCE
from tests.attacks import bundles, checkpoints
from tests.attacks.attack import OUTPUT, Attack, Case, linked_copy, put
from tests.attacks.bundles import GENERATE, INSPECT, RECORD, RESUME, VERIFY, reseal
from tests.attacks.checkpoints import EXPORT
from tests.attacks.mutations import DEEP, mutated

MODULES = (*bundles.MODULES, *checkpoints.MODULES)
Put = Callable[[Path, Case], object]


def _socket(file: Path, case: Case) -> None:
    folder = os.open(file.parent, os.O_RDONLY)  # a socket's whole path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{file.name}")
    os.close(folder)


def _empty_and_huge(file: Path, case: Case) -> None:
    put(file, b"")
    os.truncate(file, 1 << 40)


def _unreadable(file: Path, case: Case) -> None:
    put(file, b"{}")
    file.chmod(0)


IN_PLACE: dict[str, Put] = {
    "a pipe": lambda file, case: os.mkfifo(file),
    "a socket": _socket,
    "a link to zeros without end": lambda file, case: file.symlink_to("/dev/zero"),
    "a link to a terminal": lambda file, case: file.symlink_to("/dev/tty"),
    "a link out": lambda file, case: file.symlink_to(case.secret),
    "a link in a circle": lambda file, case: file.symlink_to(file.name),
    "a link to nothing": lambda file, case: file.symlink_to("nothing"),
    "a folder": lambda file, case: file.mkdir(),
    "nothing": lambda file, case: None,
    "no byte": lambda file, case: put(file, b""),
    "a terabyte": _empty_and_huge,
    "what nobody may read": _unreadable,
}
OF_A_BUNDLE = {
    MANIFEST: INSPECT, MODEL: VERIFY, f"{MODEL}.data": VERIFY, REFERENCE: VERIFY, "tokenizer.json": GENERATE,
    "engines/x-trt8.6.0.json": INSPECT, "../talk.safetensors": RESUME, "../plugins/plugins.json": ("plugins", "list"),
}  # fmt: skip
OF_A_CHECKPOINT = ("config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
                   "additional_chat_templates/x.jinja")  # fmt: skip
LONG, NEARLY = "n" * 300, "n" * 250
WORDS: tuple[Attack, ...] = (
    Attack("an output of 300 characters", ("onnx", "--model", "checkpoint", "-o", LONG)),
    Attack("a bundle of 300 characters", ("inspect", LONG)),
    Attack("a model of 300 characters", ("onnx", "--model", LONG)),
    Attack("an output in a file", ("onnx", "--model", "checkpoint", "-o", "bundle/seqexport.json/x")),
    Attack("a negative seed", (*GENERATE, "--seed", "-1")),
    Attack("a huge seed", (*GENERATE, "--seed", str(10**30))),
    Attack("a huge k", (*GENERATE, "--temperature", "1", "--top-k", str(10**30))),
    Attack("a temperature that is no number", (*GENERATE, "--temperature", "nan")),
    Attack("100,000 threads", ("verify", "bundle", "--threads", "100000")),
    Attack("10^12 threads", ("verify", "bundle", "--threads", str(10**12))),
    Attack("10^18 tokens", ("onnx", "--model", "checkpoint", "-o", OUTPUT, "--max-len", str(10**18))),
    Attack("a full device", INSPECT, stdout="/dev/full"),
    Attack("a full device at the end", ("plugins", "list"), stdout="/dev/full"),
    Attack("no working folder", ("onnx", "--model", "preset:mamba"), leave=True),
    Attack("no working folder, and a bundle", INSPECT, leave=True),
    Attack("a session of 300 characters", ("generate", "bundle", "--prompt", "x", "--save", LONG)),
)  # fmt: skip


@dataclass(frozen=True)
class Bases:
    """What is attacked: a bundle, a session of it, and a checkpoint."""

    bundle: Path
    session: Path
    checkpoint: Path

    def cases(self) -> list[Callable[[Case], Attack]]:
        """Each makes a hostile folder, and says what meets it."""
        made: list[Callable[[Case], Attack]] = []
        for what, put_it in IN_PLACE.items():
            for name, command in OF_A_BUNDLE.items():
                made.append(self._in_a_bundle(what, put_it, name, command))
            for name in OF_A_CHECKPOINT:
                made.append(self._in_a_checkpoint(what, put_it, name))
        return made + [self._words(attack) for attack in WORDS] + [self._deep]

    def attack(self, case: Case, random: Random) -> Attack:
        """One of ``cases``."""
        return random.choice(self.cases())(case)

    def _all(self, case: Case) -> None:
        linked_copy(self.bundle, case.work / "bundle")
        linked_copy(self.checkpoint, case.work / "checkpoint")
        put(case.work / "talk.safetensors", self.session.read_bytes())
        for folder in ("bundle/engines", "plugins", "checkpoint/additional_chat_templates"):
            (case.work / folder).mkdir()
        put(case.work / "bundle" / "engines" / "x-trt8.6.0.json", mutated(RECORD, Random(0), 0))

    def _in_a_bundle(self, what: str, put_it: Put, name: str, command: tuple[str, ...]) -> Callable[[Case], Attack]:
        def make(case: Case) -> Attack:
            self._all(case)
            file = case.work / "bundle" / name
            file = file.parent.resolve() / file.name
            file.unlink(missing_ok=True)
            put_it(file, case)
            if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 30 and name == "tokenizer.json":
                reseal(case.work / "bundle")
            plugins = {"SEQEXPORT_PLUGINS": str(case.work / "plugins")}
            return Attack(f"{what} for {name}", command, environment=plugins)

        return make

    def _in_a_checkpoint(self, what: str, put_it: Put, name: str) -> Callable[[Case], Attack]:
        def make(case: Case) -> Attack:
            self._all(case)
            file = case.work / "checkpoint" / name
            file.unlink(missing_ok=True)
            put_it(file, case)
            return Attack(f"{what} for {name}", EXPORT)

        return make

    def _words(self, attack: Attack) -> Callable[[Case], Attack]:
        def make(case: Case) -> Attack:
            if not attack.leave:
                self._all(case)
            return attack

        return make

    def _deep(self, case: Case) -> Attack:
        self._all(case)
        put(case.work / "plugins" / "plugins.json", mutated({"kernels": DEEP}, Random(0), 0))
        plugins = {"SEQEXPORT_PLUGINS": str(case.work / "plugins")}
        return Attack("brackets in brackets", ("plugins", "list"), environment=plugins)
