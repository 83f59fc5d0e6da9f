"""A bundle's chat template: from messages to the prompt that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import LISTS, read_json
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.chat_renderer import renderer
from seqexport.runtimes.quiet import one_line

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = Mapping[str, Any]
"""As in ``{"role": "user", "content": "..."}``; roles are the template's."""


def chat_prompt(bundle: Bundle, messages: Sequence[Message]) -> str:
    """The messages as one text, ending where the model's answer begins.

    Raises:
        UserError: the bundle has no chat template, or it refuses the messages, fails, or takes too long.
    """
    with one_line(bundle.name, "its chat template refuses the messages"):
        settings = _settings(bundle)
        names = {"messages": list(messages), "add_generation_prompt": True, **_special_tokens(settings)}
        return renderer.render(_template(bundle, settings), names)


def _settings(bundle: Bundle) -> dict[str, Any]:
    if SETTINGS not in bundle.manifest.files:
        return {}
    try:
        settings = read_json(bundle.path / SETTINGS, LISTS, bundle.path)
    except (OSError, ValueError) as error:
        raise UserError(f"{bundle.path / SETTINGS}: cannot be read ({error}); export the model again") from error
    return settings if isinstance(settings, dict) else {}


def _template(bundle: Bundle, settings: Mapping[str, Any]) -> str:
    """The template's own file, else the settings' entry: a text, or several by name of which ``default`` counts."""
    if TEMPLATE in bundle.manifest.files:
        return bundle.read(TEMPLATE, LISTS).decode()
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}.get(
            "default"
        )
    if not isinstance(template, str):
        raise UserError(
            f"{bundle.name} has no chat template, as base models have none; give it a prompt, or export a chat model"
        )
    return template


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {name: settings.get(name) for name in SPECIAL_TOKENS}
    return {name: str(token["content"] if isinstance(token, dict) else token) for name, token in found.items() if token}
