"""A model repository: two folders, of the engine and of the front, that Triton serves as they are.

NAME-engine/config.pbtxt, 1/   the graph and its weights, or a TensorRT engine; the library of our ops
NAME/config.pbtxt, 1/          model.py, and what it reads of the bundle: manifest and tokenizer
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.plugins.locks import Taken
from seqexport.plugins.publish import INSIDE, claimed
from seqexport.plugins.reading import ANY, regular
from seqexport.runtimes.bundle import MANIFEST, MODEL, REFERENCE, WEIGHTS, Bundle
from seqexport.runtimes.tokenizer import BundleTokenizer
from seqexport.runtimes.triton.config import Device, engine_config, front_config
from seqexport.runtimes.triton.engines import TAG, Packed
from seqexport.runtimes.triton.text_format import Message, as_text

CONFIG, VERSION, MODEL_PY = "config.pbtxt", "1", "model.py"
WRITTEN = "# Written by seqexport package\n"
"""What a configuration begins with that may be replaced."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOUNTED = "/models"
"""Where Triton's container sees a repository, unless told otherwise."""


@dataclass(frozen=True)
class Repository:
    """One that was written.

    Attributes:
        path: its folder.
        name, engine: of the front and of the engine, which the front calls.
        command: that serves it.
    """

    path: Path
    name: str
    engine: str
    command: str


def engine_name(name: str) -> str:
    """Of the engine behind a front.

    Raises:
        UserError: the front's name is none for a folder and a URL.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"`name` {name!r}: expected letters, digits, '.', '_' and '-', as Triton's clients call it so")
    return f"{name}-engine"


def seen_engine(name: str, mounted: str) -> str:
    """The path at which Triton sees what the engine's version has."""
    return f"{mounted.rstrip('/')}/{engine_name(name)}/{VERSION}"


def write_repository(
    bundle: Bundle, output: Path, name: str, pack: Callable[[], Packed], device: Device, *, mounted: str, force: bool
) -> Repository:
    """Write the repository of a bundle, whole or not at all.

    Args:
        name: of the model that clients ask.
        pack: gives what the engine has; asked once the output may be written.
        device: ``cpu`` or ``cuda``.
        mounted: the path at which Triton sees the repository.
        force: replace a repository that is there, if seqexport wrote all of it.

    Raises:
        UserError: the bundle is no language model's or has no tokenizer; its logits are bfloat16; or it cannot be
            written, and nothing was.
    """
    engine = engine_name(name)
    _check_front(bundle)
    with ExitStack() as stack:
        try:
            claim = stack.enter_context(claimed(output, wait=False))
            replaces = _replaced(output, force=force)
            packed = pack()
            with claim.folder(replaces=replaces, last=name) as folder:
                _write_engine(folder / engine, bundle, packed, device)
                _write_front(folder / name, engine, bundle, packed)
        except Taken as error:
            raise UserError(f"{output}: another process is writing it; wait, or choose another `output`") from error
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error
    return Repository(output, name, engine, _command(output, packed, device, seen_engine(name, mounted), mounted))


def _check_front(bundle: Bundle) -> None:
    if bundle.manifest.language_model is None:
        raise UserError(f"{bundle.path} is not a language model's: there is no text to serve")
    BundleTokenizer(bundle)
    logits = next(spec for spec in bundle.manifest.outputs if spec.role == "logits")
    if logits.dtype == "bfloat16":
        raise UserError(
            f"{bundle.path}: its logits are bfloat16, which Triton's Python back end does not read; export in "
            "fp16 or fp32"
        )


def _replaced(output: Path, *, force: bool) -> list[str] | None:
    """The names that ``output`` has and that may be replaced; None where there are none."""
    if not output.exists():
        return None
    names = [each.name for each in output.iterdir() if not each.name.startswith(f"{INSIDE}.")]
    if names and not all(_is_ours(output / name) for name in names):
        raise UserError(f"{output} holds what seqexport did not write; it is left as it is: choose another `output`")
    if names and not force:
        raise UserError(f"{output} is a repository already; take `force=True` to replace it, or another `output`")
    return names or None


def _is_ours(model: Path) -> bool:
    try:
        with (model / CONFIG).open(encoding="utf-8") as stream:
            return stream.readline() == WRITTEN
    except (OSError, ValueError):
        return False


def _write_engine(folder: Path, bundle: Bundle, packed: Packed, device: Device) -> None:
    version = _begun(folder, engine_config(bundle.manifest, folder.name, packed.runs, packed.sizes, device))
    for name, file in packed.copies.items():
        shutil.copyfile(regular(file, ANY), version / name)
    for name, data in packed.written.items():
        (version / name).write_bytes(data)


def _write_front(folder: Path, engine: str, bundle: Bundle, packed: Packed) -> None:
    version = _begun(folder, front_config(folder.name, engine, packed.sizes))
    shutil.copyfile(Path(__file__).with_name(f"{MODEL_PY}.txt"), version / MODEL_PY)
    for name in [MANIFEST, *bundle.manifest.files]:
        if name not in (MODEL, WEIGHTS, REFERENCE):
            shutil.copyfile(regular(bundle.path / name, ANY, bundle.path), version / name)


def _begun(folder: Path, config: Message) -> Path:
    """A model's folder with its configuration; gives that of its version."""
    version = folder / VERSION
    version.mkdir(parents=True)
    (folder / CONFIG).write_text(WRITTEN + as_text(config), encoding="utf-8")
    return version


def _command(output: Path, packed: Packed, device: Device, engine: str, mounted: str) -> str:
    """The line that serves a repository in Triton's container."""
    server = f"tritonserver --model-repository={shlex.quote(mounted)}"
    if packed.preload:
        server = f"env LD_PRELOAD={shlex.quote(f'{engine}/{packed.preload}')} {server}"
    inside = f"pip install seqexport=={library.version()} && exec {server}"
    gpus = "--gpus all " if device == "cuda" else ""
    ports = " ".join(f"-p {port}:{port}" for port in (8000, 8001, 8002))
    volume = shlex.quote(f"{output.resolve()}:{mounted}:ro")
    return (
        f"docker run --rm {gpus}--shm-size 1g {ports} -v {volume} nvcr.io/nvidia/tritonserver:{TAG} "
        f"sh -c {shlex.quote(inside)}"
    )
