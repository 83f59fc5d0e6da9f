"""What to do with a fresh bundle: a command that works on this machine."""

from __future__ import annotations

import shlex

from seqexport.exporter.flags import flags
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle


def next_step(bundle: Bundle, *, runs_in_ort: bool | None) -> tuple[str | None, str]:
    """Why the bundle does not run here if it does not, and the arguments of ``seqexport`` for what comes next.

    Args:
        runs_in_ort: whether ONNX Runtime's CPU has just run it; None where nobody tried.
    """
    path = shlex.quote(str(bundle.path))
    if bundle.manifest.target == "tensorrt":
        why_not = _why_no_engine(bundle)
        return why_not, f"inspect {path}" if why_not else f"build {path}"
    reasons = {"cpu": None if runs_in_ort else _why_not_ort(bundle, "cpu")}
    if reasons["cpu"] is not None or runs_in_ort is False:
        reasons = {"cpu": reasons["cpu"], "cuda": _why_not_ort(bundle, "cuda")}
    device = next((device for device, reason in reasons.items() if reason is None), None)
    if device is None:
        told = runs_in_ort is False  # by the verification that could not run
        return None if told else reasons["cpu"], f"inspect {path}"
    command = f"verify {path}" if bundle.tokenizer is None else f'generate {path} --prompt "..."'
    return None, command if device == "cpu" else f"{command} --device cuda"


def _why_not_ort(bundle: Bundle, device: str) -> str | None:
    try:
        from seqexport.runtimes.ort.runner import check_runs

        check_runs(bundle, device)
    except UserError as error:
        return flags(str(error))
    return None


def _why_no_engine(bundle: Bundle) -> str | None:
    from seqexport.runtimes.trt.engine import check_builds

    try:
        check_builds(bundle)
    except UserError as error:
        return flags(str(error))
    return None
