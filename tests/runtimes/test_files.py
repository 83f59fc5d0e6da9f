"""What is read from a checkpoint is its own: a regular file of its folder, or a blob of the hub's cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original, local_folder
from tests.conftest import Saved

SECRET = "the launch code"
READ = [
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "merges.txt",
    "generation_config.json",
    "config.json",
    "model.safetensors",
    "additional_chat_templates/tool.jinja",
]


@pytest.fixture
def folder(checkpoint: Saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "llama"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return file


def put_link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", READ)
def test_a_link_that_leads_out_is_refused(folder: Path, secret: Path, name: str, relative: bool) -> None:
    path = folder / name
    put_link(path, os.path.relpath(secret, path.parent) if relative else secret)
    for read in (load_original, local_folder):
        with pytest.raises(UserError) as error:
            read(str(folder))
        assert str(error.value) == (
            f"{path} is a link to {secret.resolve()}, outside the checkpoint; put the file itself in its place"
        )


def test_a_folder_of_templates_that_leads_out(folder: Path, secret: Path) -> None:
    (folder / "additional_chat_templates").symlink_to(secret.parent)
    with pytest.raises(UserError, match="additional_chat_templates is a link to"):
        local_folder(str(folder))


def test_a_link_by_way_of_a_link_is_refused(folder: Path, secret: Path) -> None:
    (folder / "harmless.bin").symlink_to(secret)
    (folder / "special_tokens_map.json").symlink_to("harmless.bin")
    with pytest.raises(UserError, match=r"special_tokens_map.json is a link to"):
        local_folder(str(folder))


def test_links_inside_the_folder_and_of_files_that_nobody_reads_are_fine(folder: Path, secret: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "a")
    (folder / "model.safetensors").symlink_to("weights/a")
    (folder / "notes.md").symlink_to(secret)
    assert load_original(str(folder)).config.model_type == "llama"


def test_a_linked_folder_is_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert local_folder(str(tmp_path / "link")) == tmp_path / "link"


@pytest.fixture
def snapshot(folder: Path, tmp_path: Path) -> Path:
    """``folder`` as the hub's cache lays a snapshot out."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(blobs / f"hash-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-{file.name}")
    return snapshot


def test_a_snapshot_of_the_hubs_cache_links_to_blobs(snapshot: Path) -> None:
    assert load_original(str(snapshot)).config.model_type == "llama"


def test_a_snapshot_may_link_to_nothing_else(snapshot: Path, secret: Path) -> None:
    cache = snapshot.parent.parent
    for target in (secret, cache / "refs", cache / "blobs" / "hash"):
        put_link(cache / "blobs" / "hash", secret)
        put_link(snapshot / "tokenizer.json", target)
        with pytest.raises(UserError, match=r"tokenizer.json is a link to .*, outside the checkpoint"):
            local_folder(str(snapshot))


def test_blobs_that_are_a_link_themselves_are_not_the_hubs(snapshot: Path, secret: Path) -> None:
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(secret.parent / "elsewhere")
    blobs.symlink_to(secret.parent / "elsewhere")
    with pytest.raises(UserError, match="outside the checkpoint"):
        local_folder(str(snapshot))


def test_a_folder_named_as_in_the_cache_may_not_link_to_any_blobs(folder: Path, secret: Path) -> None:
    blobs = folder.parent.parent / "blobs"
    put_link(folder / "tokenizer.json", blobs / "x")
    with pytest.raises(UserError, match=r"tokenizer.json is a link to"):
        local_folder(str(folder))
