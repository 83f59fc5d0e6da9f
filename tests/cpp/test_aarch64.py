"""The same sessions and texts from libseqexport on aarch64, cross-compiled and run in an emulator."""

from __future__ import annotations

import pytest

from seqexport.runtimes.bundle import Bundle
from tests import groups
from tests.conftest import Exported
from tests.cpp.embedded import Installed
from tests.cpp.test_assistant import test_both_say_the_same_and_go_on_with_the_same_session
from tests.cpp.test_sessions import (
    python,
    test_a_ragged_batch_forked_and_rewound,
    test_states_of_float16,
    test_tokens_and_files_are_those_of_python,
)
from tests.cpp.test_text import test_the_tool_prints_text

__all__ = [
    "python",
    "test_a_ragged_batch_forked_and_rewound",
    "test_both_say_the_same_and_go_on_with_the_same_session",
    "test_states_of_float16",
    "test_the_tool_prints_text",
    "test_tokens_and_files_are_those_of_python",
]


@pytest.fixture
def package(on_aarch64: Installed) -> Installed:
    return on_aarch64


@pytest.fixture(scope="module", params=["mamba", "hybrid"] if groups.ALL else ["hybrid"])
def bundle(request: pytest.FixtureRequest, exported: Exported) -> Bundle:
    return exported(f"preset:{request.param}", target="ort", dtype="float32", logits="last")
