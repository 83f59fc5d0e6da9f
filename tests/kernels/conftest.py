"""The kernels through their C interface; without the library or a GPU, one line says which tests are left out."""

import importlib.util

import pytest
from kernel_library import library_path, load_binding


def missing() -> tuple[str, list[str]]:
    """Why tests are left out, and which files."""
    if library_path() is None:
        return "no libseqexport_kernels.so (cmake -S plugins/kernels -B plugins/kernels/build)", ["test_*.py"]
    needs_gpu = ["test_causal_*.py", "test_selective_*.py"]
    if importlib.util.find_spec("torch") is None:
        return "no torch", needs_gpu
    import torch

    return ("", []) if torch.cuda.is_available() else ("no CUDA device", needs_gpu)


REASON, collect_ignore_glob = missing()


def pytest_terminal_summary(terminalreporter):
    if REASON:
        terminalreporter.write_line(f"tests/kernels: {', '.join(collect_ignore_glob)} left out: {REASON}")


@pytest.fixture(scope="session")
def kernels():
    binding = load_binding()
    return binding.Kernels(library_path())
