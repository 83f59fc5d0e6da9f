"""From a checkpoint to a bundle: load, trace, finish for a target, record the original's answers, write, verify."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from transformers import PreTrainedModel

from seqexport.exporter import models, notes
from seqexport.exporter.causal_lm import discover_states, trace
from seqexport.exporter.destination import Destination, destination
from seqexport.exporter.explain import explained
from seqexport.exporter.original import Original, load
from seqexport.exporter.targets import finish_for
from seqexport.exporter.tokenizer import TOKENIZER, Made, make_tokenizer
from seqexport.exporter.trace import DEFAULT_OPSET
from seqexport.exporter.writing import Stage, check_opset, our_ops, source_of, tensor_specs, write_bundle
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.reference import LONGEST, record, write_reference
from seqexport.runtimes.manifest import (
    FORMAT_VERSION,
    LanguageModel,
    Logits,
    Manifest,
    Role,
    StateSpec,
    Target,
    dtype_name,
)
from seqexport.runtimes.pytorch.files import check_files
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.pytorch.short_chunks import short_chunks
from seqexport.runtimes.quiet import one_line

TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


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
    check_opset(options.opset, options.target)
    with destination(output, force=options.force) as place:
        return _exported(options, place, stage, note, passes)


def _exported(
    options: ExportOptions,
    output: Destination,
    stage: Stage,
    note: Callable[[str], None],
    passes: Sequence[ir.passes.PassBase],
) -> Bundle:
    with stage(f"load {_said(options.model)}"), one_line(_said(options.model), "its configuration cannot be exported"):
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
        ends, windows = models.eos_token_ids(model), models.windows(model)
        texts = original.folder if options.tokenizer is None else _folder(options.tokenizer)
        tokenizer = make_tokenizer(texts)
    if tokenizer is not None:
        note(tokenizer.said)
    with stage("trace"), explained(model):
        specs = discover_states(model)
        family = models.family_of(specs)
        models.check_arch(options.arch, specs, model.config)
        for said in notes.before_tracing(original, options.target, None if family == "mamba" else capacity):
            note(said)
        graph = trace(model, specs, opset=options.opset, last_only=options.logits == "last")
        for said in notes.after_tracing(graph):
            note(said)
    with stage(f"finish for target {options.target}"):
        ops = our_ops(graph)
        graph = finish_for(options.target, graph, passes)
        ops |= our_ops(graph)
    manifest = _manifest(options, original, graph, specs, ops, capacity, ends)
    return write_bundle(
        output,
        manifest,
        graph,
        stage,
        files=lambda folder: _copy_texts(folder, texts, tokenizer),
        record=lambda bundle: _record(bundle, model, windows),
    )


def _copy_texts(folder: Path, texts: Path | None, tokenizer: Made | None) -> None:
    for name in TOKENIZER_FILES:
        if texts is not None and (texts / name).is_file():
            shutil.copyfile(texts / name, folder / name)
    if tokenizer is not None and tokenizer.content is not None:
        (folder / TOKENIZER).write_text(tokenizer.content, encoding="utf-8")


def _manifest(
    options: ExportOptions,
    original: Original,
    graph: ir.Model,
    specs: Sequence[StateSpec],
    ops: dict[str, int],
    capacity: int,
    ends: tuple[int, ...],
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
            eos_token_ids=ends,
            logits=options.logits,
        ),
        target=options.target,
        opset=graph.graph.opset_imports[""],
        capacity=None if family == "mamba" else capacity,
        capacity_limit=None if family == "mamba" or limit is None else limit[0],
        inputs=tensor_specs(graph.graph.inputs, _role),
        outputs=tensor_specs(graph.graph.outputs, _role),
        states=tuple(specs),
        caches_in_place=options.target != "portable" and "CausalAttention" not in our_ops(graph),
        ops=ops,
        source=source_of(model, original.name, clamped=original.clamped),
        files={},
    )


def _folder(tokenizer: Path) -> Path:
    if not tokenizer.is_dir():
        raise UserError(f"`tokenizer` {tokenizer}: expected a folder with a {TOKENIZER}")
    check_files(tokenizer)
    return tokenizer


def _said(model: str | PreTrainedModel) -> str:
    return model if isinstance(model, str) else type(model).__name__


ROLES: dict[str, Role] = {
    "input_ids": "tokens",
    "seq_lens": "lengths",
    "past_lens": "lengths",
    "logits": "logits",
}


def _role(name: str) -> Role:
    return ROLES.get(name, "past" if name.startswith("past") else "present")


def _record(bundle: Bundle, model: PreTrainedModel, windows: tuple[int, ...]) -> None:
    original = TorchRunner(bundle, model, logits="all")
    float64 = TorchRunner(bundle, model, logits="all", arithmetic="float64")
    with short_chunks(model, LONGEST):
        reference = record(original, float64, windows)
    write_reference(bundle.reference, reference)
