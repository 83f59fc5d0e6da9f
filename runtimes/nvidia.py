"""What NVIDIA's driver says of the GPUs."""

from __future__ import annotations

import shutil
import subprocess

from seqexport.plugins.errors import UserError

SECONDS = 20
"""After which a driver that does not answer never will."""


def gpus(*fields: str) -> list[tuple[str, ...]]:
    """``name`` and these other fields of ``nvidia-smi --help-query-gpu``, of each GPU.

    Raises:
        UserError: there is no nvidia-smi, or it finds no GPU.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise UserError("no nvidia-smi on PATH; use a machine with an NVIDIA GPU and its driver")
    query = [program, f"--query-gpu={','.join(('name', *fields))}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"nvidia-smi does not run: {error}") from error
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        raise UserError(f"nvidia-smi finds no GPU: {' '.join((done.stdout + done.stderr).split()) or 'no output'}")
    return [tuple(value.strip() for value in line.rsplit(",", len(fields))) for line in lines]
