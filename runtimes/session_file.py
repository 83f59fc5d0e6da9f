"""A session as a file: safetensors, the same from Python and from C++ (runtimes/cpp/runtime/session_file.cpp).

metadata      format, format_version; seqexport that wrote it; weights (``Source.weights``), dtype; sampling as JSON
<past name>   each state in the manifest's dtype and layout; caches with as many rows as the longest sequence has tokens
lengths       int32[batch]          tokens that each sequence has
logits        float32[batch,vocab]  after its last token
recent        int64[batch,32]       its last tokens, the newest at the end; -1 where there is none
generators    uint64[batch]         SplitMix64's, of the random numbers to come
sha256        uint8[32]             of all bytes before it; the last in the file
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import ANY, opened, read, regular
from seqexport.runtimes import units
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.output import write_output
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.snapshot import RECENT, Snapshot
from seqexport.runtimes.storage import numpy_dtype

FORMAT, FORMAT_VERSION = "seqexport session", 1
DIGEST, DIGEST_BYTES = "sha256", 32
Array = NDArray[Any]


def write_session(file: Path, bundle: Bundle, snapshot: Snapshot) -> bytes:
    """Write a session of a bundle; the file appears whole or not at all.

    Returns:
        Its checksum.

    Raises:
        UserError: it cannot be written, or the bundle does not say which weights it has.
    """
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "seqexport": library.version(),
        "weights": _weights(bundle),
        "dtype": bundle.manifest.dtype,
        "sampling": msgspec.json.encode(snapshot.sampling).decode(),
    }
    held: dict[str, Array] = {
        **snapshot.states,
        "lengths": snapshot.lengths,
        "logits": snapshot.logits,
        "recent": snapshot.recent,
        "generators": snapshot.generators,
        DIGEST: np.zeros(DIGEST_BYTES, np.uint8),
    }
    types = {name: dtype for name, (dtype, _) in _expected(bundle, snapshot.lengths).items()}
    data = sealed(save({name: np.ascontiguousarray(held[name], types[name]) for name in types}, metadata))
    write_output(file, data)
    return data[-DIGEST_BYTES:]


def checksum(file: Path) -> bytes:
    """What a session's file says of itself at its end, without a look at the rest.

    Raises:
        OSError: it cannot be read.
    """
    with opened(file, ANY, file.parent) as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - DIGEST_BYTES))
        return stream.read(DIGEST_BYTES)


def stored_tokens(file: Path) -> int:
    """Those that the longest sequence of a session's file has, without a look at its states.

    Raises:
        UserError: it cannot be read, or is no session.
    """
    try:
        with safe_open(regular(file, ANY, file.parent), "numpy") as found:
            _check_format(file, found.metadata() or {})
            return int(found.get_tensor("lengths").max())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, TypeError) as error:
        raise _damaged(file, str(error)) from error


def read_session(file: Path, bundle: Bundle) -> Snapshot:
    """A session that was saved from a bundle, or from another one of the same weights and dtype.

    Raises:
        UserError: it cannot be read, is damaged or no session, or was saved from another model or in another dtype.
    """
    try:
        with safe_open(regular(file, ANY, file.parent), "numpy") as found:  # which refuses more bytes than it lists
            metadata = found.metadata() or {}
            _check_format(file, metadata)
            body = memoryview(read(file, ANY, file.parent))
            if hashlib.sha256(body[:-DIGEST_BYTES]).digest() != body[-DIGEST_BYTES:]:
                raise _damaged(file, "its checksum is another")
            _check_model(file, metadata, bundle)
            held = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        sampling = _sampling(file, metadata["sampling"])
        _check_tensors(file, held, bundle)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        size = units.size(file.stat().st_size)
        raise UserError(
            f"{file}: {size}, for which there is no memory; take another copy of it, or free some"
        ) from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    return Snapshot(
        lengths=held["lengths"],
        states={spec.past_name: _readable(held[spec.past_name]) for spec in bundle.manifest.states},
        logits=held["logits"],
        recent=held["recent"],
        sampling=sampling,
        generators=held["generators"],
    )


def _readable(state: Array) -> Array:
    """As sessions give and take states: bfloat16 as float32."""
    return state.astype(np.float32) if state.dtype.name == "bfloat16" else state


def sealed(data: bytes) -> bytes:
    """A file whose last tensor, the only one of bytes and so the last in safetensors' order, is its checksum."""
    body = memoryview(data)[:-DIGEST_BYTES]
    return b"".join([body, hashlib.sha256(body).digest()])


def _weights(bundle: Bundle) -> str:
    if not bundle.manifest.source.weights:
        raise UserError(f"{bundle.path}: does not say which weights it has, as exports now do; export the model again")
    return bundle.manifest.source.weights


def _expected(bundle: Bundle, lengths: Array) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """The type and shape of each tensor of a file."""
    manifest, batch, longest = bundle.manifest, len(lengths), int(lengths.max())
    states = {s.past_name: (numpy_dtype(s.dtype), s.sizes(batch, longest)) for s in manifest.states}
    return states | {
        "lengths": (np.dtype(np.int32), (batch,)),
        "logits": (np.dtype(np.float32), (batch, manifest.vocab_size)),
        "recent": (np.dtype(np.int64), (batch, RECENT)),
        "generators": (np.dtype(np.uint64), (batch,)),
        DIGEST: (np.dtype(np.uint8), (DIGEST_BYTES,)),
    }


def _check_format(file: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError(f"{file}: not a session; expected a file that `save` wrote")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise UserError(
            f"{file}: format version {metadata.get('format_version')}, this seqexport reads {FORMAT_VERSION}; "
            f"it was saved by seqexport {metadata.get('seqexport')}: use that one"
        )


def _check_model(file: Path, metadata: dict[str, str], bundle: Bundle) -> None:
    saved, dtype = metadata["dtype"], bundle.manifest.dtype
    if saved != dtype:
        raise UserError(f"{file}: saved in {saved}, and {bundle.path} is {dtype}; open a bundle in {saved}")
    theirs, ours = metadata["weights"], _weights(bundle)
    if theirs != ours:
        raise UserError(
            f"{file}: saved from another model than {bundle.path} (weights {theirs[:12]}..., expected {ours[:12]}...); "
            "open a bundle of the model that it was saved from"
        )


def _sampling(file: Path, text: str) -> Sampling:
    try:
        return msgspec.json.decode(text, type=Sampling)
    except UserError as error:
        raise _damaged(file, str(error)) from error


def _check_tensors(file: Path, held: dict[str, Array], bundle: Bundle) -> None:
    lengths = held.get("lengths", np.empty(0, np.int32))
    if lengths.ndim != 1 or not lengths.size or lengths.min() < 0:
        raise _damaged(file, f"lengths are {lengths.tolist()}")
    expected = _expected(bundle, lengths)
    if others := held.keys() ^ expected.keys():
        raise _damaged(file, f"tensor {min(others)!r} is one too many or missing")
    for name, (dtype, shape) in expected.items():
        if held[name].dtype != dtype or held[name].shape != shape:
            found = f"{held[name].dtype} {list(held[name].shape)}"
            raise _damaged(file, f"{name} is {found}, expected {dtype} {list(shape)}")


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file}: damaged or cut short ({why}); take another copy of it")
