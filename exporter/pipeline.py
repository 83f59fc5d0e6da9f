"""From a checkpoint to a bundle: load, trace, finish for a target, record the original's answers, write, verify."""

from __future__ import annotations

import datetime
import errno
import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx_ir as ir
import torch
import transformers
from transformers import PreTrainedModel

from seqexport.exporter import models, notes
from seqexport.exporter.causal_lm import discover_states, trace
from seqexport.exporter.fingerprint import fingerprint
from seqexport.exporter.interface import axes_of
from seqexport.exporter.original import Original, load
from seqexport.exporter.passes import opset_27
from seqexport.exporter.passes.functions import is_in
from seqexport.exporter.targets import finish_for
from seqexport.exporter.tokenizer import TOKENIZER, Made, make_tokenizer
from seqexport.exporter.trace import DEFAULT_OPSET, TRACED_OPSETS
from seqexport.plugins.errors import UserError
from seqexport.plugins.files import sha256, whole_folder
from seqexport.plugins.ops import DOMAIN
from seqexport.runtimes.bundle import (
    MODEL,
    Bundle,
    check_destination,
    open_bundle,
    write_manifest,
)
from seqexport.runtimes.comparison.reference import LONGEST, record, write_reference
from seqexport.runtimes.manifest import (
    FORMAT_VERSION,
    LanguageModel,
    Logits,
    Manifest,
    Role,
    Source,
    StateSpec,
    Target,
    TensorSpec,
    dtype_name,
)
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.pytorch.short_chunks import short_chunks

TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

Stage = Callable[[str], AbstractContextManager[object]]
"""Called with the name of each step; the step runs inside what it gives."""


@dataclass(frozen=True)
class ExportOptions:
    """What an export is asked for; None means what the model itself says. ``seqexport.export`` explains each."""

    model: str | PreTrainedModel = "preset:mamba"
    arch: str | None = None
    dtype: str | None = None
    logits: Logits = "last"
    opset: int = DEFAULT_OPSET
    max_len: int | None = None
    target: Target = "portable"
    tokenizer: Path | None = None
    force: bool = False
    trust_remote_code: bool = False
    clamp_weights: bool = False


def export(
    options: ExportOptions,
    output: Path,
    stage: Stage,
    note: Callable[[str], None] = lambda said: None,
    passes: Sequence[ir.passes.PassBase] = (),
) -> Bundle:
    """Write the bundle ``output``; nothing of that name appears before it is whole.

    ``note`` is told, before the long work, what is left out and where the bundle will not run. ``passes`` run after the
    target's own, on the graph as it would be written; ``finish_for`` says what they must leave as it is.

    Raises:
        UserError: the model cannot be loaded or exported, or the output cannot be written; nothing is left behind.
    """
    _check_opset(options)
    check_destination(output, force=options.force)
    with stage(f"load {_said(options.model)}"):
        original = load(
            options.model,
            dtype=options.dtype,
            clamp_weights=options.clamp_weights,
            trust_remote_code=options.trust_remote_code,
        )
        model = original.model
        models.refuse_unsupported(model)
        capacity = models.default_capacity(model) if options.max_len is None else options.max_len
        models.check_capacity(capacity, model)
        texts = original.folder if options.tokenizer is None else _folder(options.tokenizer)
        tokenizer = make_tokenizer(texts)
    if tokenizer is not None:
        note(tokenizer.said)
    with stage("trace"), models.explained(model):
        specs = discover_states(model)
        family = models.family_of(specs)
        models.check_arch(options.arch, specs, model.config)
        for said in notes.before_tracing(original, options.target, None if family == "mamba" else capacity):
            note(said)
        graph = trace(model, specs, opset=options.opset, last_only=options.logits == "last")
        for said in notes.after_tracing(graph):
            note(said)
    with stage(f"finish for target {options.target}"):
        ops = _our_ops(graph)
        graph = finish_for(options.target, graph, passes)
        ops |= _our_ops(graph)
    manifest = _manifest(options, original, graph, specs, ops, capacity)
    try:
        return _write(output, manifest, graph, model, texts, tokenizer, stage)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; nothing was left behind") from error


def _check_opset(options: ExportOptions) -> None:
    traced = f"{TRACED_OPSETS[0]} to {TRACED_OPSETS[-1]}"
    if options.opset == opset_27.OPSET and options.target != "portable":
        raise UserError(f"`opset` {options.opset} is for `target='portable'`; for {options.target} expected {traced}")
    if options.opset not in (*TRACED_OPSETS, opset_27.OPSET):
        raise UserError(f"`opset` {options.opset}: expected {traced}, or {opset_27.OPSET} with `target='portable'`")


def _write(
    output: Path,
    manifest: Manifest,
    graph: ir.Model,
    model: PreTrainedModel,
    texts: Path | None,
    tokenizer: Made | None,
    stage: Stage,
) -> Bundle:
    with whole_folder(output) as folder:
        with stage("write weights"):
            ir.save(graph, folder / MODEL, external_data=f"{MODEL}.data")
            _check_written(folder)
            for name in TOKENIZER_FILES:
                if texts is not None and (texts / name).is_file():
                    shutil.copyfile(texts / name, folder / name)
            if tokenizer is not None and tokenizer.content is not None:
                (folder / TOKENIZER).write_text(tokenizer.content, encoding="utf-8")
        with stage("record the original's answers"):
            _record(Bundle(folder, manifest), model)
        with stage("seal"):
            files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
            write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return open_bundle(output, check_files=False)


def _check_written(folder: Path) -> None:
    """NumPy, which writes some of the weights, says nothing when a disk is full.

    Raises:
        OSError: the weights were cut short.
    """
    tensors = [value.const_value for value in ir.load(folder / MODEL).graph.initializers.values()]
    external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    expected = max(((tensor.offset or 0) + (tensor.length or 0) for tensor in external), default=0)
    if external and (folder / f"{MODEL}.data").stat().st_size < expected:
        raise OSError(errno.ENOSPC, "the weights were cut short; is the disk full?")


def _our_ops(graph: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in graph.graph.all_nodes() if is_in(DOMAIN, node)))


def _manifest(
    options: ExportOptions,
    original: Original,
    graph: ir.Model,
    specs: Sequence[StateSpec],
    ops: dict[str, int],
    capacity: int,
) -> Manifest:
    model = original.model
    family, limit = models.family_of(specs), models.position_limit(model)
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture=model.config.model_type,
        family=family,
        dtype=dtype_name(model.dtype),
        language_model=LanguageModel(
            vocab_size=model.get_output_embeddings().weight.shape[0],
            eos_token_ids=models.eos_token_ids(model),
            logits=options.logits,
        ),
        target=options.target,
        opset=graph.graph.opset_imports[""],
        capacity=None if family == "mamba" else capacity,
        capacity_limit=None if family == "mamba" or limit is None else limit[0],
        inputs=tuple(_tensor_spec(value) for value in graph.graph.inputs),
        outputs=tuple(_tensor_spec(value) for value in graph.graph.outputs),
        states=tuple(specs),
        caches_in_place=options.target != "portable" and "CausalAttention" not in _our_ops(graph),
        ops=ops,
        source=Source(
            model=original.name,
            parameters=sum(p.numel() for p in model.parameters()),
            seqexport=importlib.metadata.version("seqexport"),
            torch=str(torch.__version__),
            transformers=transformers.__version__,
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            clamped=tuple(original.clamped),
            weights=fingerprint(model),
        ),
        files={},
    )


def _folder(tokenizer: Path) -> Path:
    if not tokenizer.is_dir():
        raise UserError(f"`tokenizer` {tokenizer}: expected a folder with a {TOKENIZER}")
    return tokenizer


def _said(model: str | PreTrainedModel) -> str:
    return model if isinstance(model, str) else type(model).__name__


ROLES: dict[str, Role] = {
    "input_ids": "tokens",
    "seq_lens": "lengths",
    "past_lens": "lengths",
    "logits": "logits",
}


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name and value.dtype is not None
    state_role: Role = "past" if value.name.startswith("past") else "present"
    return TensorSpec(
        name=value.name, dtype=str(value.dtype.numpy()), shape=axes_of(value), role=ROLES.get(value.name, state_role)
    )


def _record(bundle: Bundle, model: PreTrainedModel) -> None:
    original = TorchRunner(bundle, model, logits="all")
    float64 = TorchRunner(bundle, model, logits="all", arithmetic="float64")
    with short_chunks(model, LONGEST):
        reference = record(original, float64, models.windows(model))
    write_reference(bundle.reference, reference)
