"""Each bug that is planted into a starter fails one of the starter's own tests.

tests/mutations/<starter>.toml lists the bugs of a starter. The text `old` in `module`
is replaced by `new`; then at least one of the tests whose names contain `tests` must
fail.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import STARTERS, TEMPLATE, Run, forget_compiled, tool

MUTATIONS = TEMPLATE / "tests" / "mutations"


def mutations(starter: str) -> list[dict[str, str]]:
    """Return the bugs of a starter."""
    text = (MUTATIONS / f"{starter}.toml").read_text(encoding="utf-8")
    found: list[dict[str, str]] = tomllib.loads(text)["mutation"]
    return found


def parameters() -> list[Any]:
    """Return the parameters of pytest, one for each bug.

    The bugs of a starter share a group, because they share a project.
    """
    found = []
    for path in sorted(MUTATIONS.glob("*.toml")):
        group = pytest.mark.xdist_group(f"{path.stem}-auto")
        for mutation in mutations(path.stem):
            name = f"{path.stem}: {mutation['bug']}"
            found.append(pytest.param(path.stem, mutation, marks=group, id=name))
    return found


def test_every_starter_has_at_least_three_bugs_to_plant() -> None:
    assert {path.stem for path in MUTATIONS.glob("*.toml")} == set(STARTERS)
    for starter in STARTERS:
        assert len(mutations(starter)) >= 3


@pytest.mark.parametrize(("starter", "mutation"), parameters())
def test_a_planted_bug_fails_a_test(
    project: Callable[[str, str], Path],
    run: Run,
    starter: str,
    mutation: dict[str, str],
) -> None:
    folder = project(starter, "auto")
    (module,) = folder.glob(f"src/*/{mutation['module']}")
    text = module.read_text(encoding="utf-8")
    assert text.count(mutation["old"]) == 1, "`old` must occur once in the module"
    module.write_text(text.replace(mutation["old"], mutation["new"]), encoding="utf-8")
    forget_compiled(module)
    try:
        output = run(
            folder,
            *(tool(folder, "pytest"), "-q", "-x", "-k", mutation["tests"]),
            "--timeout=20",
            status=1,
        )
    finally:
        module.write_text(text, encoding="utf-8")
        forget_compiled(module)
    assert "failed" in output or "error" in output
