"""Chat templates, as transformers renders them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import transformers

from seqexport.plugins.errors import UserError
from seqexport.runtimes import chat_renderer
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


COUNT = "{% for i in range(99999) %}"
ENDLESS = {
    "computes": (COUNT * 3 + "{% endfor %}" * 3, "takes more than 0.5 s"),
    "computes in one step": ("{{ 7 ** 99999999 }}", "takes more than 0.5 s"),
    "writes": (COUNT * 2 + "{{ 'x' * 999 }}" + "{% endfor %}" * 2, "a prompt of more than 16,777,216 characters"),
    "takes memory": ("{{ 'x'|center(99999999999) }}", "MemoryError"),
    "takes memory by and by": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "MemoryError",
    ),
    "counts too far": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_ended(name: str, bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, message = ENDLESS[name]
    if "takes more" in message:
        monkeypatch.setattr(chat_renderer, "SECONDS", 0.5)
    with pytest.raises(UserError, match=f"refuses the messages: .*{message}"):
        chat_prompt(bundle(chat_template_jinja=template), MESSAGES)
    monkeypatch.undo()
    assert chat_prompt(bundle(chat_template_jinja="{{ messages|length }}"), MESSAGES) == "4"


def test_the_process_that_renders_ends_with_its_program() -> None:
    """Also a program that is killed while a template computes."""
    program = (
        "from seqexport.runtimes.chat_renderer import renderer\n"
        "renderer.render('x', {})\nprint(renderer._process.pid, flush=True)\n"
        f"renderer.render({ENDLESS['computes'][0]!r}, {{}})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        renders = psutil.Process(int(started.stdout.readline()))
        started.kill()
    assert renders.wait(60) is None


def test_a_fork_renders_by_a_process_of_its_own(bundle: Any) -> None:
    first = bundle(chat_template_jinja="{{ messages|length }}")
    assert chat_prompt(first, MESSAGES) == "4"
    if (child := os.fork()) == 0:
        code = 1
        try:
            code = int(chat_prompt(first, MESSAGES[:2]) != "2")
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert chat_prompt(first, MESSAGES) == "4"
