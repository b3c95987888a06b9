"""The questions, their texts, the starters' folders and the README's table are one story."""

import re

import pytest

from .conftest import QUESTIONS, STARTERS, TEMPLATE

PUBLIC = [name for name in QUESTIONS if not name.startswith("_")]
SIX_FILES = {"app.py", "conftest.py", "test_app.py", "test_mocks.py", "requirements.txt", "README.md"}
EACH_STARTER = pytest.mark.parametrize("starter", STARTERS)


def files_of(starter: str) -> dict[str, str]:
    """What a checkout has of a starter: file name to text."""
    folder = TEMPLATE / "templates" / starter
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}


def test_there_are_at_most_nine_questions() -> None:
    assert len(PUBLIC) <= 9


def test_every_question_has_a_text_and_every_choice_says_what_you_get() -> None:
    prompts = QUESTIONS["__prompts__"]
    assert list(prompts) == PUBLIC
    for name in PUBLIC:
        if isinstance(QUESTIONS[name], list):
            assert list(prompts[name]) == ["__prompt__", *QUESTIONS[name]]


def test_every_starter_folder_is_a_choice_and_every_choice_a_folder() -> None:
    folders = {path.parent.name for path in TEMPLATE.glob("templates/*/app.py")}
    assert folders == set(STARTERS), "name each folder of templates/ in cookiecutter.json, in starter and __prompts__"


def test_the_common_names_let_a_users_config_fill_them() -> None:
    assert {"full_name", "email", "project_name", "project_slug", "license"} <= set(PUBLIC)


@EACH_STARTER
def test_a_starter_has_its_six_files(starter: str) -> None:
    page = {"page.html"} if starter == "chat" else set()  # the one that brings a file of its own
    assert set(files_of(starter)) == SIX_FILES | page


@EACH_STARTER
def test_a_starter_is_plain_text_without_a_placeholder(starter: str) -> None:
    for name, text in files_of(starter).items():
        found = re.search(r"\{[{%#]", text)
        assert not found, f"{starter}/{name} holds {found}"


@EACH_STARTER
def test_a_starters_fixtures_have_names_of_their_own(starter: str) -> None:
    shared = TEMPLATE / "{{checked(cookiecutter.project_slug)}}" / "tests" / "test_main.py"
    fixture = re.compile(r"^@pytest(?:_asyncio)?\.fixture.*\n(?:async )?def (\w+)", re.MULTILINE)
    of_test_main = set(fixture.findall(shared.read_text(encoding="utf-8")))
    assert len(of_test_main) == 2
    assert not of_test_main & set(fixture.findall(files_of(starter)["conftest.py"])), "test_main.py would shadow it"


@EACH_STARTER
def test_a_starters_program_is_small(starter: str) -> None:
    assert 80 <= files_of(starter)["app.py"].count("\n") <= 200


@EACH_STARTER
def test_a_starter_names_at_most_four_runtime_requirements_each_with_a_floor(starter: str) -> None:
    title, runtime = "", []
    for line in files_of(starter)["requirements.txt"].splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (runtime|extra [a-z0-9-]+|group [a-z0-9-]+)", line), line
            title = line
        elif line:
            assert ">=" in line, line
            assert '"' not in line, "a quote would end the TOML string: write markers with '...'"
            runtime += [line] if title == "# runtime" else []
    assert 1 <= len(runtime) <= 4


def test_the_readmes_options_table_is_cookiecutter_json() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", readme, re.MULTILINE)
    assert [name for name, _ in rows] == PUBLIC
    for name, values in rows:
        default = QUESTIONS[name]
        if isinstance(default, list):
            assert re.findall(r"`([^`]+)`", values) == default, name
        elif "{{" not in default:
            assert values == f"`{default}`", name


def test_the_readmes_table_of_starters_has_a_row_for_each() -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*`(\w+)`\*\* \|", readme, re.MULTILINE)
    assert rows == STARTERS, "the README's table of starters needs a row for each, in the order of cookiecutter.json"
