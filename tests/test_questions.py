"""The questions, their texts, the starters and the README's tables agree."""

import re

import pytest

import local_extensions

from .conftest import QUESTIONS, STARTERS, TEMPLATE

pytestmark = pytest.mark.quick

PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
PACKAGE = PROJECT / "src" / "{{cookiecutter.__package_name}}"
TEMPLATES = TEMPLATE / "templates"
PUBLIC = [name for name in QUESTIONS if not name.startswith("_")]
EACH_STARTER = pytest.mark.parametrize("starter", STARTERS)
REQUIRED_FILES = {
    "__init__.py",
    "app.py",
    "README.md",
    "requirements.txt",
    "tests/conftest.py",
    "tests/test_app.py",
    "tests/test_mocks.py",
}


def files_of(starter: str) -> dict[str, str]:
    """Return the texts of the files in a starter's folder, by their paths."""
    folder = TEMPLATES / starter
    files = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "cache" not in name:
            files[name] = path.read_text(encoding="utf-8")
    return files


def test_there_are_at_most_nine_questions() -> None:
    assert len(PUBLIC) <= 9


def test_every_question_and_every_choice_has_a_text() -> None:
    prompts = QUESTIONS["__prompts__"]
    assert list(prompts) == PUBLIC
    for name in PUBLIC:
        if isinstance(QUESTIONS[name], list):
            assert list(prompts[name]) == ["__prompt__", *QUESTIONS[name]]


def test_the_choices_are_the_folders_of_the_starters() -> None:
    folders = {path.parent.name for path in TEMPLATE.glob("templates/*/app.py")}
    assert folders == set(STARTERS), (
        "cookiecutter.json must name each folder of templates/, in `starter` and in "
        "`__prompts__`"
    )


def test_common_questions_have_the_names_that_users_configure() -> None:
    common = {"full_name", "email", "project_name", "project_slug", "license"}
    assert common <= set(PUBLIC)


@EACH_STARTER
def test_a_starter_has_the_required_files(starter: str) -> None:
    missing = REQUIRED_FILES - set(files_of(starter))
    assert not missing, f"templates/{starter} needs {sorted(missing)}"


@EACH_STARTER
def test_all_starters_have_the_same_init_file(starter: str) -> None:
    expected = files_of(STARTERS[0])["__init__.py"]
    assert files_of(starter)["__init__.py"] == expected


@EACH_STARTER
def test_every_file_of_a_starter_has_a_stub_in_the_project(starter: str) -> None:
    for number, name in enumerate(local_extensions.modules_of(starter), start=1):
        stub = PACKAGE / f"{{{{module({number})}}}}"
        assert stub.is_file(), f"{starter}/{name} needs {stub.relative_to(TEMPLATE)}"
    for number, name in enumerate(local_extensions.tests_of(starter), start=1):
        stub = PROJECT / "tests" / f"{{{{test({number})}}}}"
        assert stub.is_file(), f"{starter}/{name} needs {stub.relative_to(TEMPLATE)}"


@EACH_STARTER
def test_no_file_of_a_starter_overwrites_another(starter: str) -> None:
    common_modules = {path.name for path in PACKAGE.iterdir()}
    assert not common_modules & set(local_extensions.modules_of(starter))
    common_tests = {path.name for path in (PROJECT / "tests").iterdir()}
    assert not common_tests & set(local_extensions.tests_of(starter))
    shared = {path.name for path in (TEMPLATES / "shared").glob("*.py")}
    own = {name for name in files_of(starter) if "/" not in name} - {"__init__.py"}
    assert not shared & own, "a shared module and a starter's own have the same name"


@EACH_STARTER
def test_a_starters_readme_names_every_file_that_it_adds(starter: str) -> None:
    readme = files_of(starter)["README.md"]
    names = ["app.py", *local_extensions.modules_of(starter)]
    for test in ["conftest.py", *local_extensions.tests_of(starter)]:
        names.append(f"tests/{test}")
    for name in names:
        assert f"`{name}`" in readme, f"the README of {starter} does not name {name}"


@EACH_STARTER
def test_the_readme_of_a_starter_ends_with_how_to_change_it(starter: str) -> None:
    headings = re.findall("^#+ .*", files_of(starter)["README.md"], re.MULTILINE)
    assert "### Layout" in headings
    assert headings[-1] == "### Make it yours"


@EACH_STARTER
def test_the_readme_of_a_starter_names_its_extras_and_no_others(starter: str) -> None:
    files = files_of(starter)
    named = set(re.findall(r"--extra ([a-z0-9-]+)", files["README.md"]))
    requirements = files["requirements.txt"]
    declared = set(re.findall(r"^# extra (\S+)", requirements, re.MULTILINE))
    assert named == declared


@EACH_STARTER
def test_a_starter_contains_no_placeholder(starter: str) -> None:
    for name, text in files_of(starter).items():
        found = re.search(r"\{[{%#]", text)
        assert not found, f"{starter}/{name} contains {found}"


@EACH_STARTER
def test_a_starters_fixtures_do_not_hide_those_of_test_main(starter: str) -> None:
    fixture = re.compile(
        r"^@pytest(?:_asyncio)?\.fixture.*\n(?:async )?def (\w+)", re.MULTILINE
    )
    test_main = (PROJECT / "tests" / "test_main.py").read_text(encoding="utf-8")
    fixtures_of_test_main = set(fixture.findall(test_main))
    assert fixtures_of_test_main == {"start"}
    fixtures_of_starter = set(fixture.findall(files_of(starter)["tests/conftest.py"]))
    assert not fixtures_of_test_main & fixtures_of_starter


@EACH_STARTER
def test_every_requirement_of_a_starter_has_a_lower_bound(starter: str) -> None:
    title = re.compile(r"# (runtime|extra [a-z0-9-]+|group [a-z0-9-]+)")
    sections: dict[str, list[str]] = {}
    section: list[str] = []
    for line in files_of(starter)["requirements.txt"].splitlines():
        if line.startswith("#"):
            assert title.fullmatch(line), line
            section = []
            sections[line] = section
        elif line:
            assert ">=" in line, line
            assert '"' not in line, f"use single quotes in markers: {line}"
            section.append(line)
    assert sections
    assert all(sections.values())


def test_the_table_of_questions_in_the_readme_is_that_of_cookiecutter_json() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", readme, re.MULTILINE)
    assert [name for name, _ in rows] == PUBLIC
    for name, values in rows:
        default = QUESTIONS[name]
        if isinstance(default, list):
            assert re.findall(r"`([^`]+)`", values) == default, name
        elif "{{" not in default:
            assert values == f"`{default}`", name


def test_the_table_of_starters_in_the_readme_has_a_row_for_each() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*`(\w+)`\*\* \|", readme, re.MULTILINE)
    assert rows == STARTERS, (
        "the README's table of starters needs a row for each, in the order of "
        "cookiecutter.json"
    )
