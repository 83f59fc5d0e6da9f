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
from seqexport.runtimes.benchmarks import torch_speed

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


def test_peers_are_unpacked_inside_their_folder(tmp_path: Path, setting: Setting, monkeypatch: Any) -> None:
    for name, file in (("mamba_ssm", "mamba_ssm-2.0.tar.gz"), ("causal_conv1d", "causal-conv1d-1.7.tar.gz")):
        with tarfile.open(tmp_path / file, "w:gz") as archive:
            for path, text in ((f"{name}-2/setup.py", SETUP), (f"{name}-2/../../../evil", ""), (f"{name}-2/a/b", "c")):
                member = tarfile.TarInfo(path)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
    ran: list[tuple[list[str], dict[str, str]]] = []

    def install(self: Setting, command: Any, *, log: str, env: dict[str, str], **rest: Any) -> str:
        target, source = Path(command[-2]), Path(command[-1])
        ran.append(([file.name for file in sorted(source.rglob("*"))], env))
        (target / log.removeprefix("peers-")).mkdir(parents=True)
        return ""

    monkeypatch.setattr(Setting, "run", install)
    with pytest.raises(LeftOut, match="--sdists"):
        peers.build_peers(setting)
    peers.build_peers(dataclasses.replace(setting, sdists=tmp_path))
    assert [files for files, _ in ran] == [["a", "b", "setup.py"]] * 2
    assert {"MAMBA_FORCE_BUILD", "CAUSAL_CONV1D_FORCE_BUILD"} <= set().union(*(env for _, env in ran))
    assert all(env["TORCH_CUDA_ARCH_LIST"] == "8.7" for _, env in ran)
    assert (setting.peers / "mamba_ssm").is_dir() and not list(tmp_path.rglob("evil"))
    ran.clear()
    peers.build_peers(setting)
    assert not ran


def test_calls_of_the_peers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    extension = SimpleNamespace(__name__="selective_scan_cuda", fwd=lambda x: x + 1)
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)  # type: ignore[arg-type]
    original = extension.fwd
    with torch_speed.counted() as counts:
        assert extension.fwd(1) == 2 and extension.fwd(2) == 3
    assert counts == {"fwd": 2} and extension.fwd is original
