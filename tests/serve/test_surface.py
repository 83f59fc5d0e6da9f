"""What the server says of itself in ``/openapi.json``, held against what it does, by requests made up of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.conftest import Exported
from tests.serve.conftest import LIMITS
from tests.serve.served import KEY, Served, served

OPERATIONS = [
    ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/v1/models/{name}"),
    ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions/{name}"), ("DELETE", "/v1/sessions/{name}"),
]  # fmt: skip
EXAMPLES, UNHURRIED = 12, [*HealthCheck]


@pytest.fixture(scope="module")
def site(exported: Exported) -> Iterator[Served]:
    with served(exported("preset:mamba", target="ort", dtype="float32", logits="last"), LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def schema(site: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{site.url}/openapi.json")


def test_every_operation_is_tried(schema: schemathesis.BaseSchema) -> None:
    found = {(each.ok().method.upper(), each.ok().path) for each in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_it_says_that_it_takes_it_takes(method: str, path: str, schema: schemathesis.BaseSchema) -> None:
    validate(schema[path][method], schemathesis.GenerationMode.POSITIVE)


@pytest.mark.parametrize(("method", "path"), OPERATIONS[5:7])
def test_what_it_says_that_it_refuses_it_refuses(method: str, path: str, schema: schemathesis.BaseSchema) -> None:
    validate(schema[path][method], schemathesis.GenerationMode.NEGATIVE)


def validate(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=UNHURRIED)
    @given(case=operation.as_strategy(generation_mode=mode))
    def try_it(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    try_it()
