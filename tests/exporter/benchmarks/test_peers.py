"""The peers of the GPU run: their sources, and whether they are called."""

from __future__ import annotations

import dataclasses
import io
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seqexport.exporter.benchmarks import peers
from seqexport.exporter.benchmarks.setting import LeftOut, Setting
from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks import peers as called

SETUP = """\
cc_flag = []
if HIP_BUILD:
    pass
else:
    cc_flag.append("-gencode")
    cc_flag.append("arch=compute_75,code=sm_75")
    cc_flag.append('-gencode')
    cc_flag.append('arch=compute_80,code=sm_80')
    if bare_metal_version >= Version("12.8"):
        cc_flag.append("-gencode")
        cc_flag.append("arch=compute_100a,code=sm_100a")
    if True:
        cc_flag.append("-gencode")
        cc_flag.append("arch=compute_90,code=sm_90")
cc_flag.append("-lineinfo")
"""
GENCODE = ["-gencode", "arch=compute_87,code=sm_87"]


def test_a_setup_is_cut_to_one_architecture() -> None:
    names: dict[str, Any] = {"HIP_BUILD": False, "bare_metal_version": 13, "Version": lambda text: float(text)}
    exec(peers.only_architecture(SETUP, "87"), names)
    assert names["cc_flag"] == [*GENCODE, "-lineinfo"]


def test_a_setup_without_architectures_is_refused() -> None:
    with pytest.raises(ValueError, match="gencode"):
        peers.only_architecture("setup(name='x')\n", "90")


@pytest.fixture
def sdists(tmp_path: Path) -> Path:
    folder = tmp_path / "sdists"
    folder.mkdir()
    for name, file in (("mamba_ssm", "mamba_ssm-2.0.tar.gz"), ("causal_conv1d", "causal-conv1d-1.7.tar.gz")):
        with tarfile.open(folder / file, "w:gz") as archive:
            for path, text in ((f"{name}-2/setup.py", SETUP), (f"{name}-2/../../../evil", ""), (f"{name}-2/a/b", "c")):
                member = tarfile.TarInfo(path)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    return folder


def test_peers_are_unpacked_inside_their_folder(
    tmp_path: Path, sdists: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[list[str], dict[str, str]]] = []

    def install(self: Setting, command: Any, *, log: str, env: dict[str, str], **rest: Any) -> str:
        target, source = Path(command[-2]), Path(command[-1])
        ran.append(([file.name for file in sorted(source.rglob("*"))], env))
        (target / log.removeprefix("peers-")).mkdir(parents=True, exist_ok=True)
        (target / "selective_scan_cuda.so").touch()
        return ""

    monkeypatch.setattr(Setting, "run", install)
    with pytest.raises(LeftOut, match="--sdists"):
        peers.build_peers(setting)
    peers.build_peers(dataclasses.replace(setting, sdists=sdists))
    assert [files for files, _ in ran] == [["a", "b", "setup.py"]] * 2
    assert {"MAMBA_FORCE_BUILD", "CAUSAL_CONV1D_FORCE_BUILD"} <= set().union(*(env for _, env in ran))
    assert all(env["TORCH_CUDA_ARCH_LIST"] == "8.7" for _, env in ran)
    assert (setting.peers / "mamba_ssm").is_dir() and not list(tmp_path.rglob("evil"))
    ran.clear()
    peers.build_peers(setting)
    assert not ran


def test_without_a_mamba_1_nothing_of_mamba_ssm_is_compiled(
    sdists: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: dict[str, tuple[list[str], dict[str, str]]] = {}

    def install(self: Setting, command: Any, *, log: str, env: dict[str, str] | None = None) -> str:
        target = Path(command[command.index("--target") + 1])
        (target / log.removeprefix("peers-")).mkdir(parents=True, exist_ok=True)
        if env and env.get("MAMBA_KEEP_CUDA_BUILD"):
            (target / "selective_scan_cuda.so").touch()
        ran[log] = ([str(part) for part in command], env or {})
        return ""

    monkeypatch.setattr(Setting, "run", install)
    (sdists / "einops-0.8-py3-none-any.whl").touch()
    some = dataclasses.replace(setting, sdists=sdists, models=("mamba2-2.7b", "llama-4b"))
    peers.build_peers(some)
    assert ran["peers-mamba_ssm"][1].keys() >= {"MAMBA_SKIP_CUDA_BUILD"}
    assert not ran["peers-mamba_ssm"][1].keys() & {"MAMBA_KEEP_CUDA_BUILD", "MAMBA_FORCE_BUILD"}
    assert "CAUSAL_CONV1D_FORCE_BUILD" in ran["peers-causal_conv1d"][1]
    assert ran["peers-wheels"][0][-1].endswith("einops-0.8-py3-none-any.whl")
    ran.clear()
    peers.build_peers(some)
    assert not ran
    peers.build_peers(dataclasses.replace(some, models=()))
    assert list(ran) == ["peers-mamba_ssm", "peers-wheels"] and "MAMBA_KEEP_CUDA_BUILD" in ran["peers-mamba_ssm"][1]


def test_calls_of_the_peers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda x: x * grid[0]

    extension = SimpleNamespace(fwd=lambda x: x + 1)
    triton = SimpleNamespace(_selective_scan_update_kernel=Kernel())
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.triton.selective_state_update", triton)  # type: ignore[arg-type]
    original = extension.fwd
    with called.counted() as counts:
        assert extension.fwd(1) == 2 and extension.fwd(2) == 3
        assert triton._selective_scan_update_kernel[(5,)](2) == 10
    assert counts == {"fwd": 2, "_selective_scan_update_kernel": 1} and extension.fwd is original


def test_a_peer_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(UserError, match="mamba_ssm cannot be imported"):
        called.require_called(None, lambda: None)


def test_triton_is_let_choose_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Autotuner:
        def __init__(self) -> None:
            self.cache = {(64, 128): "a configuration"}

    kernel, other = Autotuner(), Autotuner()
    modules = {
        "triton.runtime.autotuner": SimpleNamespace(Autotuner=Autotuner),
        "mamba_ssm.ops.triton.ssd_bmm": SimpleNamespace(kernel=kernel, number=1),
        "elsewhere": SimpleNamespace(kernel=other),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    called.tune_again()
    assert not kernel.cache and other.cache
