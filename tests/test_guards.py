"""The guards: each planted bug turns a project's suite red and is named, and what is
sound stays green.
"""

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
    """Return the Pythons on which no mode is tested: all but the oldest and newest."""
    versions = [version for version in pythons.supported() if pythons.find(version)]
    return versions[1:-1]


def each(files: list[Path]) -> pytest.MarkDecorator:
    """Each file in each mode, and in mode auto on the other Pythons.

    Those of one mode or Python run in one environment, one after the other.
    """
    return pytest.mark.parametrize(
        ("mode", "file"),
        [
            pytest.param(
                mode,
                file,
                marks=pytest.mark.xdist_group(f"guards-{mode}"),
                id=f"{mode}-{file.stem}",
            )
            for mode in [*MODES, *middle_versions()]
            for file in files
        ],
    )


@pytest.fixture(scope="session")
def on_python(render: Render, run: Run, uv: str) -> Callable[[str], Path]:
    """Renders the default project for a Python version, with its own environment."""

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
    """The default project of a mode or Python, with what the sound files need too."""

    def guarded(mode: str) -> Path:
        if mode in MODES:
            folder = project("api_client", mode)
        else:
            folder = on_python(mode)
        if not (folder / "extra").exists():
            more = ("anyio", "hypothesis", "uvloop; sys_platform != 'win32'")
            run(
                folder,
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                tool(folder, "python"),
                *more,
            )
            (folder / "extra").touch()
        return folder

    return guarded


@each(FILES)
def test_a_planted_bug_turns_the_suite_red_and_is_named(
    guarded: Callable[[str], Path], mode: str, file: Path
) -> None:
    assert guarded_outcome(guarded(mode), file) == "fails"


@each(GREEN)
def test_what_is_sound_stays_green(
    guarded: Callable[[str], Path], mode: str, file: Path
) -> None:
    folder = guarded(mode)
    with planted(folder, package_of(folder), file) as test:
        ended, said = outcome(folder, tool(folder, "python"), test)
    assert ended == "passes", said


@pytest.mark.xdist_group("guards-strict")
def test_coverage_raises_no_alarm(guarded: Callable[[str], Path]) -> None:
    folder = guarded("strict")
    (file,) = (file for file in GREEN if file.stem == "green_threads_and_files")
    with planted(folder, package_of(folder), file) as test:
        ended, said = outcome(
            folder, tool(folder, "python"), test, "--cov", "--cov-fail-under=0"
        )
    assert ended == "passes", said


@pytest.mark.skipif(sys.platform == "win32", reason="no uvloop there")
@pytest.mark.xdist_group("guards-auto")
@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name < "14"], ids=lambda file: file.stem
)
def test_with_uvloop_the_bugs_are_found_too(
    guarded: Callable[[str], Path], file: Path
) -> None:
    folder = guarded("auto")
    plugin = folder / "src" / "with_uvloop.py"
    plugin.write_text(UVLOOP, encoding="utf-8")
    try:
        with planted(folder, package_of(folder), file) as test:
            ended, said = outcome(
                folder, tool(folder, "python"), test, "-p", "with_uvloop"
            )
    finally:
        plugin.unlink()
    assert ended == "fails", said
    assert names_the_test(said)


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_documents_say_how_the_bug_ends_without_the_guards(
    guarded: Callable[[str], Path], tmp_path: Path, file: Path
) -> None:
    table = (TEMPLATE / "docs" / "bugs.md").read_text(encoding="utf-8")
    plain = plain_outcome(guarded("strict"), tmp_path, file)
    assert row(file, plain, "fails") in table, "run tools.bug_table"


def table() -> list[list[str]]:
    """The rows of the table that each project's README has: bug, what catches it, how
    to opt out.
    """
    text = (TEMPLATE / "templates" / "GUARDS.md").read_text(encoding="utf-8")
    text = text.partition("### What is not covered")[0]
    return [
        row.strip("| ").split(" | ")
        for row in re.findall(r"^\| .*$", text, re.MULTILINE)[1:]
    ]


def test_the_projects_table_has_every_planted_bug_and_no_other() -> None:
    bugs = {bug.casefold(): 0 for first, _, _ in table() for bug in first.split("; ")}
    for file in FILES:
        (bug,) = (bug for bug in bugs if title(file).casefold().startswith(bug))
        bugs[bug] += 1
    assert 0 not in bugs.values(), bugs


def declared_markers() -> set[str]:
    """The names of the guards' own markers, from their settings."""
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


def test_each_way_out_in_the_table_is_taken_by_a_sound_test() -> None:
    sound = "".join(file.read_text(encoding="utf-8") for file in GREEN)
    ways_out = [way for _, _, last in table() for way in re.findall("`(.*?)`", last)]
    assert len(ways_out) >= 10
    for way in ways_out:
        assert f"pytest.mark.{way.removesuffix('(seconds)')}" in sound


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize("file", ONLY_GUARDED, ids=lambda file: file.stem)
def test_what_the_table_leaves_out_is_found_too(
    guarded: Callable[[str], Path], file: Path
) -> None:
    assert guarded_outcome(guarded("strict"), file) == "fails"


def planted_file(name: str) -> Path:
    (file,) = (file for file in FILES if file.stem.endswith(name))
    return file


@pytest.mark.xdist_group("guards-strict")
def test_a_verdict_after_the_fixtures_counts_as_one_failed_test(
    guarded: Callable[[str], Path],
) -> None:
    folder, file = guarded("strict"), planted_file("a_task_left_running")
    with planted(folder, package_of(folder), file) as test:
        _, said = outcome(folder, tool(folder, "python"), test)
    assert re.search("^1 failed in ", said, re.MULTILINE), said


@pytest.mark.xdist_group("guards-strict")
def test_a_coroutine_of_a_fixture_fails_the_run_of_several_processes(
    guarded: Callable[[str], Path],
) -> None:
    folder, file = guarded("strict"), planted_file("a_coroutine_that_a_fixture_returns")
    with planted(folder, package_of(folder), file) as test:
        ended, said = outcome(folder, tool(folder, "python"), test, "-n2")
    assert ended == "fails"
    assert re.search("FAILED .*::test_it_uses_users", said), said
    assert re.search("^1 failed, 1 passed", said, re.MULTILINE), said


@pytest.mark.xdist_group("guards-strict")
def test_pytest_timeout_can_be_left_out(guarded: Callable[[str], Path]) -> None:
    folder = guarded("strict")
    with planted(folder, package_of(folder), GREEN[0]) as test:
        ended, said = outcome(folder, tool(folder, "python"), test, "-pno:timeout")
    assert ended == "passes", said


@pytest.mark.xdist_group("guards-strict")
@pytest.mark.parametrize(
    "option", ["-pno:cacheprovider", "-n2", "--import-mode=importlib"]
)
def test_the_guards_are_found_from_another_folder(
    guarded: Callable[[str], Path], run: Run, tmp_path: Path, option: str
) -> None:
    folder = guarded("strict")
    told = run(
        tmp_path,
        tool(folder, "pytest"),
        "-q",
        option,
        folder / "tests" / "test_mocks.py",
    )
    assert re.search(r"\d+ passed", told)


@pytest.mark.xdist_group("api_client-auto")
def test_the_guards_stand_alone(project: Project, run: Run) -> None:
    """Delete conftest.py and guards/, and a suite that uses none of its tools runs on
    plain pytest-asyncio.
    """
    folder = project("api_client", "auto")
    guards, kept = (folder / "conftest.py", folder / "guards"), folder / "kept"
    alone = folder / "tests" / "test_alone.py"
    alone.write_text("async def test_alone() -> None: ...\n", encoding="utf-8")
    kept.mkdir()
    for path in guards:
        path.rename(kept / path.name)
    try:
        assert "1 passed" in run(folder, tool(folder, "pytest"), "-q", alone)
    finally:
        for path in guards:
            (kept / path.name).rename(path)
        kept.rmdir()
        alone.unlink()


# An existing project


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
    """The code blocks of this language in the section about an existing project."""
    text = (TEMPLATE / "docs" / "existing-project.md").read_text(encoding="utf-8")
    found = re.findall(
        rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for block in found]


@pytest.fixture
def shop(tmp_path: Path, guarded: Callable[[str], Path]) -> Path:
    """An empty project beside one of this template, which has the name of the docs."""
    (tmp_path / "my-project").symlink_to(guarded("strict"), target_is_directory=True)
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


def check_shop(folder: Path, python: Path, own_settings: str) -> None:
    """Run the tests of a project with the settings of the docs and some of its own."""
    (settings,) = blocks("toml")
    own_filter = '    "ignore:old:UserWarning",\n]'
    settings = re.sub(r"^\]", own_filter, settings, flags=re.MULTILINE)
    text = settings + own_settings
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly")
    said = execute(folder, python, "-m", "pytest", *quiet).stdout
    assert re.search(r"^\S*shop\S*:12: a blocking call to time.sleep$", said, re.M), (
        said
    )
    assert re.search(r"^\S*test_shop.py:29: a task left running: ", said, re.M), said
    assert re.search(r"^\S*test_shop.py:35: coroutine 'buy' was never", said, re.M), (
        said
    )
    assert re.search(r"^3 failed, 2 passed in", said, re.M), said
    assert "no package found" not in said


def install(folder: Path, uv: str, run: Run, project: Path) -> None:
    """Run the docs' `pip install`, with uv, in the environment of a project."""
    (command,) = (block for block in blocks("console") if block.startswith("pip"))
    arguments = shlex.split(command)[1:]
    run(folder, uv, "pip", *arguments, "--quiet", "--python", tool(project, "python"))


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are a shell's")
@pytest.mark.xdist_group("guards-strict")
def test_a_flat_project_gets_the_guards_in_three_steps(
    shop: Path, guarded: Callable[[str], Path], run: Run, uv: str
) -> None:
    (shop / "shop").mkdir()
    (shop / "shop" / "__init__.py").write_text(SHOP, encoding="utf-8")
    (shop / "tests").mkdir()
    (shop / "tests" / "test_shop.py").write_text(TESTS_OF_SHOP, encoding="utf-8")
    run(shop, "sh", "-c", blocks("console")[0])
    install(shop, uv, run, guarded("strict"))
    check_shop(shop, tool(guarded("strict"), "python"), "")


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are a shell's")
@pytest.mark.xdist_group("guards-strict")
def test_a_project_with_src_own_conftest_and_tests_in_the_package_gets_them_too(
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
    ("setting", "said"),
    [
        ("", "guards: no package found to watch"),
        ("guards_packages = no_such_package", "guards_packages: cannot import no_such"),
        ("guards_allow = blocks", "guards_allow: unknown name blocks"),
    ],
    ids=["none", "unknown-package", "unknown-guard"],
)
def test_a_setting_that_cannot_be_right_is_explained(
    shop: Path, guarded: Callable[[str], Path], setting: str, said: str
) -> None:
    for name in ("conftest.py", "guards"):
        (shop / name).symlink_to(guarded("strict") / name)
    (shop / "test_nothing.py").write_text("def test_nothing(): ...\n", encoding="utf-8")
    (shop / "pytest.ini").write_text(f"[pytest]\n{setting}\n", encoding="utf-8")
    pytest_said = execute(
        shop, tool(guarded("strict"), "python"), "-m", "pytest"
    ).stdout
    assert pytest_said.count(said) == 1, pytest_said
