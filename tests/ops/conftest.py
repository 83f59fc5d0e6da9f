"""The ops in every backend that this machine has; one line says which is left out."""

import pytest

from tests.ops.conformance import NO_CUDA


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NO_CUDA:
        terminalreporter.write_line(f"tests/ops: the ops on CUDA left out: {NO_CUDA}")
