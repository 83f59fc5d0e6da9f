"""Builds mamba_ssm and causal-conv1d from their source distributions, offline, for one GPU architecture.

Get them where there is a network, mamba_ssm from 2.3.2.post1 on (or its repository, packed by git archive as
mamba_ssm-VERSION.tar.gz):
    MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE \\
        pip download --no-deps --no-binary :all: --no-build-isolation -d sdists mamba-ssm causal-conv1d

Their setup.py compiles for every architecture that the compiler knows; with this GPU's alone it takes minutes. The
extension of mamba_ssm, which takes longest and serves Mamba-1 alone, is left out where --models names nothing with it.
Wheels beside the source distributions (einops, which mamba_ssm imports) are installed with them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seqexport.exporter.benchmarks.bundles import SCANS
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.runtimes.benchmarks.peers import NAMES, SCAN_EXTENSION

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
    missing = [name for name in NAMES if not _is_there(setting, name)]
    with ThreadPoolExecutor(len(NAMES)) as pool:
        list(pool.map(lambda name: _build(setting, name, _sdist(setting.sdists, name)), missing))
    if missing and setting.sdists is not None and (wheels := sorted(setting.sdists.glob("*.whl"))):
        _install(setting, setting.peers, ["--upgrade", *wheels], log="peers-wheels")
    return sorted(path.name for path in setting.peers.glob("*.dist-info"))


def try_to_build(setting: Setting) -> Generator[Row, None, bool]:
    """Whether ``build_peers`` built them; a row where it did not."""
    try:
        build_peers(setting)
    except LeftOut as reason:
        yield Row("mamba_ssm and causal-conv1d", detail={"left out": str(reason)})
        return False
    except StepFailed as failure:
        yield Row("mamba_ssm and causal-conv1d", passed=False, detail={"error": str(failure)})
        return False
    return True


def _is_there(setting: Setting, name: str) -> bool:
    whole = name != "mamba_ssm" or not _needs_scan(setting) or list(setting.peers.glob(f"{SCAN_EXTENSION}*"))
    return bool(whole) and (setting.peers / name).is_dir()


def _needs_scan(setting: Setting) -> bool:
    return any(setting.wants(model) for model in SCANS)


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
    env = {
        **_switches(name, compiled=name != "mamba_ssm" or _needs_scan(setting)),
        "MAX_JOBS": str(os.cpu_count()),
        "TORCH_CUDA_ARCH_LIST": f"{setting.gpu.capability[:-1]}.{setting.gpu.capability[-1]}",
    }
    _install(setting, target, [source], log=f"peers-{name}", env=env)
    setting.peers.mkdir(parents=True, exist_ok=True)
    for item in target.iterdir():
        shutil.rmtree(setting.peers / item.name, ignore_errors=True)
        shutil.move(item, setting.peers / item.name)


def _switches(name: str, *, compiled: bool) -> dict[str, str]:
    """What their setup.py asks the environment: whether to compile, and not to look for a wheel instead."""
    prefix = name.removesuffix("_ssm").upper()
    names = ("KEEP_CUDA_BUILD", "FORCE_BUILD") if compiled else ("SKIP_CUDA_BUILD",)
    return {f"{prefix}_{switch}": "TRUE" for switch in names}


def _install(
    setting: Setting, target: Path, what: Sequence[object], *, log: str, env: Mapping[str, str] | None = None
) -> None:
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--target", target]
    setting.run([sys.executable, "-m", "pip", "install", *options, *what], log=log, env=env)


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
