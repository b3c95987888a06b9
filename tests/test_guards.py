"""The guards find each planted bug, and raise no alarm for correct code."""

import ast
import functools
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import execute, pythons

from .conftest import MODES, TEMPLATE, Render, Run, tool
from .planting import (
    FILES,
    GREEN,
    ONLY_GUARDED,
    guarded_outcome,
    names_the_test,
    outcome,
    package_of,
    plain_outcome,
    planted,
    row,
    title,
)

Project = Callable[[str, str], Path]
UVLOOP = """import uvloop

def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
"""


def middle_versions() -> list[str]:
    """Return the installed Pythons between the oldest and the newest.

    The oldest is that of the project in mode auto, the newest that in mode strict.
    """
    versions = [version for version in pythons.supported() if pythons.find(version)]
    return versions[1:-1]


def each(files: list[Path]) -> pytest.MarkDecorator:
    """Run a test with each file in each mode, and in mode auto on the other Pythons.

    The tests of one mode or Python share an environment, so they share a group.
    """
    parameters = []
    for mode in [*MODES, *middle_versions()]:
        group = pytest.mark.xdist_group(f"guards-{mode}")
        for file in files:
            name = f"{mode}-{file.stem}"
            parameters.append(pytest.param(mode, file, marks=group, id=name))
    return pytest.mark.parametrize(("mode", "file"), parameters)


@pytest.fixture(scope="session")
def on_python(render: Render, run: Run, uv: str) -> Callable[[str], Path]:
    """Renders and installs the default project for a Python version."""

    @functools.cache
    def on_python(version: str) -> Path:
        folder = render(project_name=f"Guards on {version}")
        python = pythons.find(version)
        assert python is not None
        run(folder, uv, "sync", "--quiet", "--python", python)
        return folder

    return on_python


@pytest.fixture(scope="session")
def guarded(
    project: Project, on_python: Callable[[str], Path], run: Run, uv: str
) -> Callable[[str], Path]:
    """Returns the default project of a mode or Python, with more packages.

    The planted files of correct code need these packages.
    """

    def guarded(mode: str) -> Path:
        if mode in MODES:
            folder = project("api_client", mode)
        else:
            folder = on_python(mode)
        is_complete = folder / "more-packages-installed"
        if not is_complete.exists():
            packages = ("anyio", "hypothesis", "uvloop; sys_platform != 'win32'")
            python = tool(folder, "python")
            run(folder, uv, "pip", "install", "-q", "--python", python, *packages)
            is_complete.touch()
        return folder

    return guarded


@each(FILES)
def test_a_planted_bug_fails_its_test_and_is_named(
    guarded: Callable[[str], Path], mode: str, file: Path
) -> None:
    assert guarded_outcome(guarded(mode), file) == "fails"


@each(GREEN)
def test_correct_code_passes(
    guarded: Callable[[str], Path], mode: str, file: Path
) -> None:
    folder = guarded(mode)
    with planted(folder, package_of(folder), file) as test:
        ended, output = outcome(folder, tool(folder, "python"), test)
    assert ended == "passes", output


@pytest.mark.xdist_group("guards-strict")
def test_correct_code_passes_with_coverage_too(guarded: Callable[[str], Path]) -> None:
    folder = guarded("strict")
    (file,) = (file for file in GREEN if file.stem == "green_threads_and_files")
    options = ("--cov", "--cov-fail-under=0")
    with planted(folder, package_of(folder), file) as test:
        ended, output = outcome(folder, tool(folder, "python"), test, *options)
    assert ended == "passes", output


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
@pytest.mark.xdist_group("guards-auto")
@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name < "14"], ids=lambda file: file.stem
)
def test_the_bugs_are_found_under_uvloop_too(
    guarded: Callable[[str], Path], file: Path
) -> None:
    folder = guarded("auto")
    plugin = folder / "src" / "with_uvloop.py"
    plugin.write_text(UVLOOP, encoding="utf-8")
    try:
        with planted(folder, package_of(folder), file) as test:
            options = ("-p", "with_uvloop")
            ended, output = outcome(folder, tool(folder, "python"), test, *options)
    finally:
        plugin.unlink()
    assert ended == "fails", output
    assert names_the_test(output)


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_docs_bugs_md_says_how_the_bug_ends_without_the_guards(
    guarded: Callable[[str], Path], tmp_path: Path, file: Path
) -> None:
    table = (TEMPLATE / "docs" / "bugs.md").read_text(encoding="utf-8")
    plain = plain_outcome(guarded("strict"), tmp_path, file)
    assert row(file, plain, "fails") in table, "run `python -m tools.bug_table`"


def table() -> list[list[str]]:
    """Return the rows of the table of guards in each project's README.

    The columns are the bug, the guard that finds it, and the way to opt out.
    """
    text = (TEMPLATE / "templates" / "GUARDS.md").read_text(encoding="utf-8")
    text = text.partition("### What is not covered")[0]
    _head, *rows = re.findall(r"^\| .*$", text, re.MULTILINE)
    return [row.strip("| ").split(" | ") for row in rows]


def test_the_projects_table_has_every_planted_bug_and_no_other() -> None:
    bugs = set()
    for first_cell, _, _ in table():
        bugs.update(first_cell.casefold().split("; "))
    planted_bugs = set()
    for file in FILES:
        (bug,) = (bug for bug in bugs if title(file).casefold().startswith(bug))
        planted_bugs.add(bug)
    assert planted_bugs == bugs


def declared_markers() -> set[str]:
    """Return the names of the guards' markers, from their settings."""
    file = TEMPLATE / "{{cookiecutter.project_slug}}" / "guards" / "settings.py"
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign):
            continue
        if ast.unparse(node.targets[0]) in ("OPT_OUTS", "TOOLS"):
            names.update(ast.literal_eval(node.value))
    return {name.partition("(")[0] for name in names}


def test_the_projects_table_has_every_marker() -> None:
    named = set()
    for cells in table():
        named.update(re.findall(r"`(\w+)(?:\(\w+\))?`", " ".join(cells)))
    assert len(declared_markers()) >= 10
    assert declared_markers() <= named


def test_each_opt_out_in_the_table_is_used_by_a_test_that_passes() -> None:
    green = "".join(file.read_text(encoding="utf-8") for file in GREEN)
    opt_outs = []
    for _, _, last_cell in table():
        opt_outs += re.findall("`(.*?)`", last_cell)
    assert len(opt_outs) >= 10
    for opt_out in opt_outs:
        assert f"pytest.mark.{opt_out.removesuffix('(seconds)')}" in green


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize("file", ONLY_GUARDED, ids=lambda file: file.stem)
def test_bugs_that_are_not_in_the_table_are_found_too(
    guarded: Callable[[str], Path], file: Path
) -> None:
    assert guarded_outcome(guarded("strict"), file) == "fails"


def planted_file(name: str) -> Path:
    """Return the planted bug whose file name ends with `name`."""
    (file,) = (file for file in FILES if file.stem.endswith(name))
    return file


@pytest.mark.xdist_group("guards-strict")
def test_a_verdict_after_the_fixtures_counts_as_one_failed_test(
    guarded: Callable[[str], Path],
) -> None:
    folder = guarded("strict")
    file = planted_file("a_task_left_running")
    with planted(folder, package_of(folder), file) as test:
        _, output = outcome(folder, tool(folder, "python"), test)
    assert re.search("^1 failed in ", output, re.MULTILINE), output


@pytest.mark.xdist_group("guards-strict")
def test_a_coroutine_of_a_fixture_is_found_under_pytest_xdist_too(
    guarded: Callable[[str], Path],
) -> None:
    folder = guarded("strict")
    file = planted_file("a_coroutine_that_a_fixture_returns")
    with planted(folder, package_of(folder), file) as test:
        ended, output = outcome(folder, tool(folder, "python"), test, "-n2")
    assert ended == "fails"
    assert re.search("FAILED .*::test_it_uses_users", output), output
    assert re.search("^1 failed, 1 passed", output, re.MULTILINE), output


@pytest.mark.xdist_group("guards-strict")
def test_the_guards_work_without_pytest_timeout(
    guarded: Callable[[str], Path],
) -> None:
    folder = guarded("strict")
    with planted(folder, package_of(folder), GREEN[0]) as test:
        ended, output = outcome(folder, tool(folder, "python"), test, "-pno:timeout")
    assert ended == "passes", output


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize(
    "option", ["-pno:cacheprovider", "-n2", "--import-mode=importlib"]
)
def test_the_guards_are_found_from_another_folder(
    guarded: Callable[[str], Path], run: Run, tmp_path: Path, option: str
) -> None:
    folder = guarded("strict")
    test = folder / "tests" / "test_mocks.py"
    output = run(tmp_path, tool(folder, "pytest"), "-q", option, test)
    assert re.search(r"\d+ passed", output)


@pytest.mark.xdist_group("api_client-auto")
def test_a_project_works_without_the_guards(project: Project, run: Run) -> None:
    """Tests that use no marker or fixture of the guards then run as before."""
    folder = project("api_client", "auto")
    guards = [folder / "conftest.py", folder / "guards"]
    removed = folder / "removed"
    test = folder / "tests" / "test_without_guards.py"
    test.write_text("async def test_nothing() -> None: ...\n", encoding="utf-8")
    removed.mkdir()
    for path in guards:
        path.rename(removed / path.name)
    try:
        assert "1 passed" in run(folder, tool(folder, "pytest"), "-q", test)
    finally:
        for path in guards:
            (removed / path.name).rename(path)
        removed.rmdir()
        test.unlink()


# --- The guards in an existing project


SHOP = """
import asyncio
import time


async def buy() -> str:
    await asyncio.sleep(0)
    return "bought"


async def pack() -> None:
    time.sleep(0.01)
"""
TESTS_OF_SHOP = """
import asyncio
import warnings
from unittest.mock import Mock

import pytest

from shop import buy, pack


async def poll() -> None:
    await asyncio.sleep(600)


@pytest.mark.asyncio
async def test_it_sells() -> None:
    customer = Mock()
    customer.name = await buy()
    assert customer.name == "bought"


@pytest.mark.asyncio
async def test_it_packs() -> None:
    await pack()


@pytest.mark.asyncio
async def test_it_polls() -> None:
    asyncio.create_task(poll())
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_it_forgets_to_await() -> None:
    buy()


def test_it_warns() -> None:
    warnings.warn("old", UserWarning, stacklevel=1)
"""
OWN_CONFTEST = """
import pytest


@pytest.fixture
def own() -> int:
    return 42
"""


def blocks(language: str) -> list[str]:
    """Return the code blocks of this language in docs/existing-project.md."""
    text = (TEMPLATE / "docs" / "existing-project.md").read_text(encoding="utf-8")
    found = re.findall(
        rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for block in found]


@pytest.fixture
def shop(tmp_path: Path, guarded: Callable[[str], Path]) -> Path:
    """An empty project, next to a project of this template.

    The latter has the name that docs/existing-project.md uses.
    """
    (tmp_path / "my-project").symlink_to(guarded("strict"), target_is_directory=True)
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


def check_shop(folder: Path, python: Path, own_settings: str) -> None:
    """Assert that the guards find three bugs in a project.

    The project has the settings of docs/existing-project.md and some of its own.
    """
    (settings,) = blocks("toml")
    own_filter = '    "ignore:old:UserWarning",\n]'
    settings = re.sub(r"^\]", own_filter, settings, flags=re.MULTILINE)
    text = settings + own_settings
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly")
    output = execute(folder, python, "-m", "pytest", *quiet).stdout
    for line in (
        r"\S*shop\S*:12: a blocking call to time.sleep$",
        r"\S*test_shop.py:29: a task left running: ",
        r"\S*test_shop.py:35: coroutine 'buy' was never",
        r"3 failed, 2 passed in",
    ):
        assert re.search(f"^{line}", output, re.MULTILINE), output
    assert "no package found" not in output


def install(folder: Path, uv: str, run: Run, project: Path) -> None:
    """Run the `pip install` of the docs with uv, in the environment of a project."""
    (command,) = (block for block in blocks("console") if block.startswith("pip"))
    arguments = shlex.split(command)[1:]
    run(folder, uv, "pip", *arguments, "--quiet", "--python", tool(project, "python"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.xdist_group("guards-strict")
def test_three_steps_add_the_guards_to_a_flat_project(
    shop: Path, guarded: Callable[[str], Path], run: Run, uv: str
) -> None:
    (shop / "shop").mkdir()
    (shop / "shop" / "__init__.py").write_text(SHOP, encoding="utf-8")
    (shop / "tests").mkdir()
    (shop / "tests" / "test_shop.py").write_text(TESTS_OF_SHOP, encoding="utf-8")
    run(shop, "sh", "-c", blocks("console")[0])
    install(shop, uv, run, guarded("strict"))
    check_shop(shop, tool(guarded("strict"), "python"), "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.xdist_group("guards-strict")
def test_the_guards_can_be_added_beside_an_existing_conftest(
    shop: Path, guarded: Callable[[str], Path], run: Run, uv: str
) -> None:
    package = shop / "src" / "shop"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(SHOP, encoding="utf-8")
    (package / "tests" / "__init__.py").touch()
    uses_own = TESTS_OF_SHOP.replace("test_it_sells()", "test_it_sells(own: int)")
    (package / "tests" / "test_shop.py").write_text(uses_own, encoding="utf-8")
    (plugin,) = blocks("python")
    (shop / "conftest.py").write_text(plugin + OWN_CONFTEST, encoding="utf-8")
    run(shop, "sh", "-c", blocks("console")[1])
    own_settings = 'testpaths = ["src"]\naddopts = ["--strict-config"]\n'
    check_shop(shop, tool(guarded("strict"), "python"), own_settings)


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "guards: no package found to watch"),
        ("guards_packages = no_such_package", "guards_packages: cannot import no_such"),
        ("guards_allow = blocks", "guards_allow: unknown name blocks"),
    ],
    ids=["none", "unknown-package", "unknown-guard"],
)
def test_a_wrong_setting_is_explained(
    shop: Path, guarded: Callable[[str], Path], setting: str, message: str
) -> None:
    for name in ("conftest.py", "guards"):
        (shop / name).symlink_to(guarded("strict") / name)
    (shop / "test_nothing.py").write_text("def test_nothing(): ...\n", encoding="utf-8")
    (shop / "pytest.ini").write_text(f"[pytest]\n{setting}\n", encoding="utf-8")
    python = tool(guarded("strict"), "python")
    output = execute(shop, python, "-m", "pytest").stdout
    assert output.count(message) == 1, output
