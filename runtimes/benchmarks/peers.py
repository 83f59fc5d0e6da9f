"""mamba_ssm and causal-conv1d beside ours: their kernels alone, and whether transformers calls them.

transformers passes over a package that it cannot import in silence, and runs its own PyTorch code in its place.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("mamba_ssm", "causal_conv1d")
"""Packages with kernels that transformers calls where they are installed."""

SCAN_EXTENSION = "selective_scan_cuda"
"""The compiled module of mamba_ssm, which only Mamba-1 needs; all its other kernels are Triton's."""

TRITON = "mamba_ssm.ops.triton"
CONVOLUTION = "causal_conv1d_cuda"
MAMBA_1 = (SCAN_EXTENSION, "fwd")
MAMBA_2 = (f"{TRITON}.ssd_combined", "_mamba_chunk_scan_combined_fwd")
BOTH = (
    (f"{TRITON}.selective_state_update", "_selective_scan_update_kernel"),
    (CONVOLUTION, "causal_conv1d_fwd"),
    (CONVOLUTION, "causal_conv1d_update"),
)
"""Modules, and functions in them, that a layer runs through in a prompt or in a single token, once in each."""


class _Counted:
    """A function, or a Triton kernel, which takes its grid in brackets first."""

    def __init__(self, original: Any, count: Callable[[], None]) -> None:
        self.original, self.count = original, count

    def __getitem__(self, grid: Any) -> _Counted:
        return _Counted(self.original[grid], self.count)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count()
        return self.original(*args, **kwargs)


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """How often each of the peers' functions is called, of those that are imported."""
    counts: dict[str, int] = {}
    originals: list[tuple[Any, str, Any]] = []

    def counting(name: str) -> Callable[[], None]:
        def count() -> None:
            counts[name] = counts.get(name, 0) + 1

        return count

    for module_name, name in (MAMBA_1, MAMBA_2, *BOTH):
        module = sys.modules.get(module_name)
        if module is not None:
            originals.append((module, name, getattr(module, name)))
            setattr(module, name, _Counted(getattr(module, name), counting(name)))
    try:
        yield counts
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def layers(model: Any) -> int:
    """Layers for which the peers have kernels: those with a short convolution."""
    return sum(hasattr(module, "conv1d") for module in model.modules())


def require_called(model: Any, prompt_and_step: Callable[[], object]) -> dict[str, int]:
    """The calls of the peers' functions in a prompt and a single token: each once a layer.

    Raises:
        UserError: a package cannot be imported, or transformers used its own code.
    """
    for name in NAMES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"{name} cannot be imported, so that transformers does without: {error}") from error
    with counted() as counts:
        prompt_and_step()
    scan = MAMBA_1 if model.config.model_type in ("mamba", "falcon_mamba") else MAMBA_2
    wanted = {name: layers(model) for _, name in (scan, *BOTH)}
    if counts != wanted:
        raise UserError(f"transformers does not run the peers' kernels: calls {counts}, expected {wanted}")
    return counts


def tune_again() -> None:
    """Let Triton choose anew at the next calls: what it chose while others used the GPU may not be its best."""
    autotuner = getattr(sys.modules.get("triton.runtime.autotuner"), "Autotuner", ())
    for name, module in tuple(sys.modules.items()):
        if name.startswith(TRITON):
            for kernel in vars(module).values():
                if isinstance(kernel, autotuner):
                    kernel.cache.clear()


@functools.cache
def _usable(*modules: str) -> bool:
    """Whether all can be imported; stderr says why not."""
    try:
        for name in modules:
            importlib.import_module(name)
    except ImportError as error:
        print(f"{modules[0]} is left out: {error}", file=sys.stderr)
        return False
    return True


def have_scan() -> bool:
    """Whether mamba_ssm's scan of Mamba-1 is compiled and can be imported, and causal-conv1d with it."""
    return _usable("mamba_ssm", SCAN_EXTENSION) and _usable("causal_conv1d", CONVOLUTION)


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object] | None:
    """causal-conv1d's kernel with SiLU, of x [B,L,D] and weight [D,K]; None where it is not installed."""
    if not _usable("causal_conv1d", CONVOLUTION):
        return None
    from causal_conv1d import causal_conv1d_fn

    return functools.partial(causal_conv1d_fn, x.transpose(1, 2), weight, bias, activation="silu")


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> Callable[[], object] | None:
    """mamba_ssm's kernel of what SelectiveScan takes, in its own layout; None where that is not compiled."""
    if not _usable("mamba_ssm", SCAN_EXTENSION):
        return None
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, dt, z, B, C = (t.transpose(1, 2).contiguous() for t in (x, dt, z, B[:, :, 0], C[:, :, 0]))
    return functools.partial(selective_scan_fn, x, dt, A, B, C, D, z, bias, delta_softplus=True, return_last_state=True)


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> Callable[..., object] | None:
    """mamba_ssm's kernels of a state [B,H,P,N] and, where there are several tokens, the length of its chunks.

    One token updates the state in its place. None where mamba_ssm is not installed; nothing of it need be compiled.
    """
    if not _usable("mamba_ssm"):
        return None
    if x.shape[1] > 1:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        return lambda past, chunk: mamba_chunk_scan_combined(
            x, dt, A, B, C, chunk, D=D, z=z, dt_bias=bias, initial_states=past, dt_softplus=True,
            return_final_states=True,
        )  # fmt: skip
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    (P, N), steps = (x.shape[-1], B.shape[-1]), dt[:, 0, :, None].expand(-1, -1, x.shape[-1])
    rates, skip, shift = A[:, None, None].expand(-1, P, N), D[:, None].expand(-1, P), bias[:, None].expand(-1, P)
    return lambda state: selective_state_update(
        state, x[:, 0], steps, rates, B[:, 0], C[:, 0], skip, z=z[:, 0], dt_bias=shift, dt_softplus=True
    )
