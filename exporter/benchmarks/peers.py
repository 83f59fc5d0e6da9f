"""Builds mamba_ssm and causal-conv1d from their source distributions, offline, for one GPU architecture.

Get them where there is a network:
    MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE \\
        pip download --no-deps --no-binary :all: --no-build-isolation -d sdists mamba-ssm causal-conv1d

Their setup.py compiles for every architecture that the compiler knows; with this GPU's alone it takes minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.runtimes.benchmarks.sizes import PEERS

GENCODE = re.compile(r"""cc_flag\.append\((["'])-gencode\1\)\s*cc_flag\.append\((["'])arch=[^"']*\2\)""")


def only_architecture(setup: str, capability: str) -> str:
    """The text of a setup.py whose list of architectures is ``capability`` (``90``) alone.

    Raises:
        ValueError: it has no such list.
    """
    first = GENCODE.search(setup)
    if first is None:
        raise ValueError("no list of -gencode flags")
    wanted = f'cc_flag.extend(["-gencode", "arch=compute_{capability},code=sm_{capability}"])'
    return setup[: first.start()] + wanted + GENCODE.sub("pass", setup[first.end() :])


def build_peers(setting: Setting) -> list[str]:
    """Install both into ``setting.peers``, at the same time; gives what is there now.

    Raises:
        LeftOut: there are no source distributions.
        StepFailed: one cannot be built.
    """
    missing = [name for name in PEERS if not (setting.peers / name).is_dir()]
    with ThreadPoolExecutor(len(PEERS)) as pool:
        list(pool.map(lambda name: _build(setting, name, _sdist(setting.sdists, name)), missing))
    return sorted(path.name for path in setting.peers.glob("*.dist-info"))


def _sdist(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise LeftOut("no source distributions of mamba_ssm and causal-conv1d: give --sdists")
    found = sorted(file for file in folder.glob("*.tar.gz") if file.name.replace("-", "_").startswith(f"{name}_"))
    if not found:
        raise LeftOut(f"no source distribution of {name} in {folder}")
    return found[-1]


def _build(setting: Setting, name: str, sdist: Path) -> None:
    source, target = setting.work / "peers-source" / name, setting.work / "peers-target" / name
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    _unpack(sdist, source, setting.gpu.capability)
    prefix = name.removesuffix("_ssm").upper()
    env = {
        f"{prefix}_FORCE_BUILD": "TRUE",
        "MAX_JOBS": str(os.cpu_count()),
        "TORCH_CUDA_ARCH_LIST": f"{setting.gpu.capability[:-1]}.{setting.gpu.capability[-1]}",
    }
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--target", target]
    command = [sys.executable, "-m", "pip", "install", *options, source]
    setting.run(command, log=f"peers-{name}", env=env)
    setting.peers.mkdir(parents=True, exist_ok=True)
    for item in target.iterdir():
        shutil.move(item, setting.peers / item.name)


def _unpack(sdist: Path, into: Path, capability: str) -> None:
    with tarfile.open(sdist) as archive:
        for member in archive:
            inner = Path(member.name.partition("/")[2])
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and not inner.is_absolute() and ".." not in inner.parts:
                (into / inner).parent.mkdir(parents=True, exist_ok=True)
                (into / inner).write_bytes(content.read())
    setup = into / "setup.py"
    try:
        setup.write_text(only_architecture(setup.read_text(), capability))
    except (OSError, ValueError) as error:
        raise StepFailed(f"{sdist.name}: its setup.py cannot be cut to one architecture ({error})") from error
