"""What the tests of the GPU run share."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import LlamaConfig, Mamba2Config, MambaConfig, NemotronHConfig

from seqexport.exporter.benchmarks.setting import Gpu, Setting
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.runtimes.benchmarks import checkpoints
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.quiet import quiet

TINY = {
    "mamba": lambda: MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, rescale_prenorm_residual=False),
    "llama": lambda: LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                 num_attention_heads=2, max_position_embeddings=4096),
    "mamba2": lambda: Mamba2Config(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_heads=4, head_dim=8,
                                   n_groups=1, state_size=16, rescale_prenorm_residual=False),
    "nemotron_h": lambda: NemotronHConfig(vocab_size=40, hidden_size=16, intermediate_size=24,
                                          layers_block_type=["linear_attention", "mlp", "full_attention"],
                                          mamba_num_heads=4, mamba_head_dim=8, n_groups=2,
                                          ssm_state_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8),
}  # fmt: skip


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(Gpu("NVIDIA Test", "87"), tmp_path / "work")


@pytest.fixture(scope="module", params=list(TINY))
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported from a random checkpoint as the GPU run makes them."""
    folder = tmp_path_factory.mktemp(request.param)
    with quiet():
        checkpoints.create(TINY[request.param](), folder / "checkpoint")
        options = ExportOptions(model=str(folder / "checkpoint"), max_len=200)
        return export(options, folder / "bundle", lambda stage: nullcontext())
