"""What is fetched from the hub: shards by the index alone, and nothing that loading does not read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqexport.plugins.errors import UserError
from seqexport.runtimes.pytorch.checkpoint import load_original, local_folder
from tests.conftest import Saved
from tests.runtimes.fake_hub import FakeHub, serving

NAME = "someone/llama"
INDEX = "model.safetensors.index.json"
ODD = ("model.safetensors-00001-of-00002.safetensors", "weights[2].safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client takes for the real one, and an empty cache."""
    with serving(tmp_path / "hub") as fake:
        files = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", fake.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield fake


@pytest.fixture
def repository(hub: FakeHub, checkpoint: Saved) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), hub.root / NAME))


def shard(repository: Path, names: tuple[str, str], *, keep: bool = False) -> dict[str, torch.Tensor]:
    """Split the weights into two files of these names, as the index says."""
    weights = load_file(repository / "model.safetensors")
    if not keep:
        (repository / "model.safetensors").unlink()
    keys = sorted(weights)
    where = {key: names[i % 2] for i, key in enumerate(keys)}
    for name in names:
        part = {key: weights[key] for key in keys if where[key] == name}
        save_file(part, repository / Path(name).name, metadata={"format": "pt"})
    (repository / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return weights


def test_shards_of_any_name_are_fetched_by_the_index(hub: FakeHub, repository: Path) -> None:
    weights = shard(repository, ODD)
    (repository / "consolidated.safetensors").write_bytes(b"the same again, in another layout")
    (repository / "pytorch_model.bin").write_bytes(b"pickled")
    state = load_original(NAME).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert hub.served >= {INDEX, *ODD, "config.json"}
    assert not hub.served & {"consolidated.safetensors", "pytorch_model.bin"}


def test_a_whole_file_makes_shards_superfluous(hub: FakeHub, repository: Path) -> None:
    shard(repository, ODD, keep=True)
    load_original(NAME)
    assert "model.safetensors" in hub.served
    assert not hub.served & set(ODD)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("../elsewhere.safetensors", "b.safetensors"), "lists '../elsewhere.safetensors'; expected a safetensors"),
        (("sub/a.safetensors", "b.safetensors"), "lists 'sub/a.safetensors'; expected a safetensors file beside it"),
        (("a.bin", "b.safetensors"), "lists 'a.bin'; expected a safetensors file beside it"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused_before_its_shards_are_fetched(
    hub: FakeHub, repository: Path, names: tuple[str, str], message: str
) -> None:
    shard(repository, names)
    with pytest.raises(UserError) as error:
        load_original(NAME)
    assert message in str(error.value)
    assert "b.safetensors" not in hub.served


def test_a_shard_that_the_hub_lacks_is_named(repository: Path) -> None:
    shard(repository, ODD)
    (repository / ODD[1]).unlink()
    with pytest.raises(UserError, match=r"weights\[2\].safetensors: missing, though .*index.json lists it"):
        load_original(NAME)


def test_an_adapter_is_known_without_weights(hub: FakeHub, repository: Path) -> None:
    for file in repository.iterdir():
        file.unlink()
    (repository / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    (repository / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=f"^{NAME} holds an adapter of some/base; merge it first"):
        load_original(NAME)
    assert hub.served == {"adapter_config.json"}


def test_pickles_alone_are_not_fetched(hub: FakeHub, repository: Path) -> None:
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"^{NAME} has no safetensors weights; expected model.safetensors, or"):
        load_original(NAME)
    assert "pytorch_model.bin" not in hub.served


def test_a_cached_snapshot_is_taken_whole_and_its_links_are_its_own(hub: FakeHub, repository: Path) -> None:
    folder = local_folder(NAME)
    links = [file for file in folder.iterdir() if file.is_symlink()]
    assert {file.resolve().parent.name for file in links} == {"blobs"}
    assert load_original(str(folder)).config.model_type == "llama"


def test_a_model_that_the_hub_lacks(hub: FakeHub) -> None:
    with pytest.raises(UserError, match="nobody/nothing: no such folder, and no such model on the Hugging Face hub"):
        load_original("nobody/nothing")
