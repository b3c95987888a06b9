"""The API of api_server responds as its OpenAPI schema says.

schemathesis generates valid and invalid requests from the schema, and compares the
responses with it. It is not part of the project's own suite: it installs 20 packages,
and the project's tests name each case that they check.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run

SCHEMATHESIS = "schemathesis>=4.32"

TEST = """
import os
from importlib import import_module

import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    positive_data_acceptance,
)

create_app = import_module(os.environ["APP"]).create_app
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app("sqlite:///x.db"))

EXCLUDED = [
    # FastAPI's response 405 lists the methods of one route only, although several
    # routes have the same path.
    allow_header_conformance,
    # A valid Idempotency-Key is refused if it was used before.
    positive_data_acceptance,
]


@schema.parametrize()
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_a_response_fits_the_schema(case):
    case.call_and_validate(excluded_checks=EXCLUDED)
"""


@pytest.mark.xdist_group("api_server-auto")
def test_every_response_fits_the_openapi_schema(
    project: Callable[[str, str], Path], run: Run, uv: str, tmp_path: Path
) -> None:
    folder = project("api_server", "auto")
    (module,) = folder.glob("src/*/app.py")
    (tmp_path / "test_schema.py").write_text(TEST, encoding="utf-8")
    output = run(
        tmp_path,
        *(uv, "run", "--quiet", "--project", folder, "--with", SCHEMATHESIS),
        *("pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"),
        "test_schema.py",
        APP=f"{module.parent.name}.app",
    )
    assert "8 passed" in output
