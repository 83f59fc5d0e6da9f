"""Chat templates, as transformers renders them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transformers

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.chat import chat_prompt
from tests.conftest import Exported

MESSAGES = [
    {"role": "system", "content": "Answer <briefly>."},
    {"role": "user", "content": "Is 2 < 3 & 3 > 2? “Yes”"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "And now?"},
]
PLAIN = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    <|{{ message['role'] }}|>{{ message['content'] | trim }}{{ eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
ARGUMENTS = "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}"
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('must begin with a user') }}{% endif %}"


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Any:
    """A bundle of the files that are given."""
    manifest = exported("mamba", target="portable").manifest

    def made(**files: str) -> Bundle:
        names = {name.replace("_json", ".json").replace("_jinja", ".jinja"): text for name, text in files.items()}
        for name, text in names.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        return Bundle(tmp_path, msgspec.structs.replace(manifest, files=dict.fromkeys(names, "")))

    return made


@pytest.mark.parametrize("template", [PLAIN, ARGUMENTS], ids=["plain", "tojson"])
@pytest.mark.parametrize("home", ["file", "settings", "named"])
def test_renders_what_transformers_renders(bundle: Any, template: str, home: str) -> None:
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}}
    entries = {"file": None, "settings": template, "named": [{"name": "default", "template": template}]}
    settings = json.dumps({**tokens, "chat_template": entries[home]})
    files = {"chat_template_jinja": template} if home == "file" else {}
    theirs = transformers.utils.chat_template_utils.render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )[0][0]
    assert chat_prompt(bundle(tokenizer_config_json=settings, **files), MESSAGES) == theirs


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STRICT, "refuses the messages: must begin with a user"),
        ("{% for %}", "refuses the messages"),
        ("{{ messages[9].content.x.y }}", "refuses the messages"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses the messages"),
        (None, "has no chat template"),
    ],
)
def test_refusals_are_one_line(bundle: Any, template: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chat_prompt(bundle(**({} if template is None else {"chat_template_jinja": template})), MESSAGES)
