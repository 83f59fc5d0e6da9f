"""The model to export: a checkpoint that is loaded here, or one that its user has loaded."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from seqexport.exporter.presets import resolve_source
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import MEMORY
from seqexport.runtimes.encoding import readable
from seqexport.runtimes.pytorch.checkpoint import DTYPES, load_original, local_folder
from seqexport.runtimes.pytorch.files import CONFIG, read_json
from seqexport.runtimes.pytorch.language_model import is_wrapper, language_model
from seqexport.runtimes.pytorch.weights import check_finite
from seqexport.runtimes.quiet import quiet

ATTENTIONS = {"eager", "sdpa"}
"""transformers' implementations that run everywhere, and so can record the original's answers."""


@dataclass(frozen=True)
class Original:
    """A causal language model in eval mode on the CPU, and what it came with.

    Attributes:
        name: for the bundle: the checkpoint's folder or hub id, ``preset:...``, or ``memory:`` and the class.
        folder: of the checkpoint's files; None where there is none.
        clamped: the weights of which values were set to the dtype's limit.
        whole: the ``model_type`` of the model that it is a part of, or its own.
    """

    model: PreTrainedModel
    name: str
    folder: Path | None
    clamped: list[str] = field(default_factory=list)
    whole: str | None = None


def load(
    model: str | PreTrainedModel, *, dtype: str | None, clamp_weights: bool = False, trust_remote_code: bool = False
) -> Original:
    """The model that ``model`` names, or is.

    Args:
        dtype: of the weights; None for the model's own.
        clamp_weights: set weights beyond the dtype to its limit, instead of refusing them.

    Raises:
        UserError: whatever is wrong with the checkpoint or the model, in one line.
    """
    clamped: list[str] = []
    if not isinstance(model, str):
        return _given(model, dtype, clamped if clamp_weights else None)
    source = resolve_source(model)
    loaded = load_original(
        source,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        clamped=clamped if clamp_weights else None,
    )
    folder = local_folder(source)
    name = readable(str(Path(model).resolve())) if Path(model).exists() else model
    return Original(loaded, name, folder, clamped, read_json(folder / CONFIG).get("model_type"))


def _given(model: PreTrainedModel, dtype: str | None, clamped: list[str] | None) -> Original:
    """A model that is loaded already: it stays as it is, and is copied where something about it must be other."""
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"`model`: expected a folder, a hub id, or a model of transformers (PreTrainedModel), not a "
            f"{type(model).__module__}.{type(model).__qualname__}"
        )
    name = type(model).__name__
    _check(model, name, dtype)
    files, whole = _files_of(model), model.config.model_type
    if dtype is not None and getattr(torch, dtype) != model.dtype:
        model = _in_dtype(model, getattr(torch, dtype))
    elif clamped is not None or not _is_ready(model):
        model = copy.deepcopy(model)
    if model.config._attn_implementation not in ATTENTIONS:
        model.set_attn_implementation("sdpa")
    torch.nn.Module.to(model, "cpu").eval()
    if is_wrapper(model.config):
        model = language_model(name, model).eval()
    check_finite(name, [], model, clamped)
    return Original(model, f"{MEMORY}{name}", files, clamped or [], whole)


def _is_ready(model: PreTrainedModel) -> bool:
    """Whether it can be traced and asked as it is."""
    devices = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    training = any(module.training for module in model.modules())
    return devices == {"cpu"} and not training and model.config._attn_implementation in ATTENTIONS


def _in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy as transformers would load it in the dtype: what a family keeps in float32 stays so."""
    config = copy.deepcopy(model.config)
    with quiet():
        copied: PreTrainedModel = type(model).from_pretrained(
            None, config=config, state_dict=model.state_dict(), dtype=dtype
        )
    if model.generation_config is not None:
        copied.generation_config = model.generation_config
    return copied


def _check(model: PreTrainedModel, name: str, dtype: str | None) -> None:
    expected = ", ".join(DTYPES)
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype!r}: expected one of {expected}")
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError(f"`model`: {name} is quantised; expected {expected} weights: load the original")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UserError(f"`model`: {name} has weights on the meta device or offloaded; load it onto one device")
    if dtype is None and str(model.dtype).removeprefix("torch.") not in DTYPES:
        raise UserError(f"`model`: {name} is {model.dtype}; expected {expected}: choose one with `dtype`")


def _files_of(model: PreTrainedModel) -> Path | None:
    """The folder that the model was loaded from, if it is still here; of a hub id, in the hub's cache."""
    source = model.config.name_or_path
    try:
        return local_folder(source) if source else None
    except UserError:
        return None
