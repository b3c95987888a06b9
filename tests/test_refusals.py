"""Answers that could not give a working project are refused in one line, and nothing is left on disk."""

import subprocess
import sys
from pathlib import Path

import pytest
from async_template import TAKEN, problem
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from tools import outside

from .conftest import QUESTIONS, STARTERS, TEMPLATE
from .typed import typed

SLUG, LONG = "project_slug", "x" * 300
REFUSED = [
    ("project_name", "", "empty"),
    ("project_name", "   ", "empty"),
    ("project_name", LONG, "100"),
    ("project_name", "two\nlines", "line break"),
    ("project_name", "bell\a", "control character"),
    ("project_name", "nul\0", "control character"),
    ("project_name", "\u2028", "line break"),
    ("project_name", "asyncio", "Python's own module"),
    ("project_name", "Test", "Python's own module"),
    ("project_name", "class", "keyword"),
    ("project_name", "3 Musketeers", "begin with a letter"),
    ("description", "tab\there", "control character"),
    ("description", "esc \x1b[31m", "control character"),
    ("description", "next\x85line", "control character"),
    ("description", "word " * 120, "end with a space"),
    ("description", "w" * 501, "500"),
    ("full_name", "", "empty"),
    ("full_name", " Ada", "space"),
    ("full_name", "Ada\r\nLovelace", "line break"),
    ("full_name", LONG, "200"),
    ("email", "", "empty"),
    ("email", "nobody", "name@host"),
    ("email", "a@b@c", "name@host"),
    ("email", 'a"b@example.com', "name@host"),
    ("email", "a b@example.com", "name@host"),
    ("email", "Ada <ada@example.com>", "name@host"),
    ("email", "ü@example.com", "ASCII"),
    (SLUG, "", "distribution"),
    (SLUG, ".", "distribution"),
    (SLUG, "..", "distribution"),
    (SLUG, "../x", "distribution"),
    (SLUG, "a/b", "distribution"),
    (SLUG, "a/b/../../../c", "distribution"),
    (SLUG, "a\\b", "distribution"),
    (SLUG, "/tmp/x", "distribution"),  # noqa: S108  # never made: that is the point
    (SLUG, "C:x", "distribution"),
    (SLUG, "~", "distribution"),
    (SLUG, "dot.", "distribution"),
    (SLUG, "-dash", "distribution"),
    (SLUG, "under_", "distribution"),
    (SLUG, "two words", "distribution"),
    (SLUG, "pröjekt", "distribution"),
    (SLUG, "🚀", "distribution"),
    (SLUG, 'a";import os;"', "distribution"),
    (SLUG, "$(id)", "distribution"),
    (SLUG, LONG, "distribution"),
    (SLUG, "x\ny", "distribution"),
    (SLUG, "con", "Windows"),
    (SLUG, "NUL", "Windows"),
    (SLUG, "com1", "Windows"),
    (SLUG, "aux.tools", "Windows"),
    (SLUG, "json", "Python's own module"),
    (SLUG, "JSON", "Python's own module"),
    (SLUG, "test", "Python's own module"),
    (SLUG, "import", "keyword"),
    (SLUG, "Async", "keyword"),
    (SLUG, "2fast", "begin with a letter"),
    (SLUG, "aiohttp", "use themselves"),
    (SLUG, "pytest-asyncio", "use themselves"),
    (SLUG, "tests", "use themselves"),
    (SLUG, "guards", "use themselves"),
]


@pytest.mark.parametrize(("answer", "value", "rule"), REFUSED, ids=lambda text: repr(text)[:24])
def test_refused_in_one_line_and_nothing_left(
    answer: str, value: str, rule: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "folder" / "to" / "write" / "in"
    out.mkdir(parents=True)
    with pytest.raises(FailedHookException, match="Refused: ") as refused:
        cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(out), extra_context={answer: typed(value)})
    (line,) = str(refused.value).splitlines()
    assert capfd.readouterr() == ("", "")
    assert answer in line or answer == "project_name"  # whose slug may be what is refused
    assert rule in line
    assert line.isascii()
    assert [path for path in tmp_path.rglob("*") if path not in (out, *out.parents)] == []


@pytest.mark.parametrize(
    "slug", ["x", "a-b_c.d", "X1", "my.project", "match", "x" * 40, "async-project", "app", "a--b"]
)
def test_every_valid_slug_is_accepted(slug: str, tmp_path: Path) -> None:
    made = cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path), extra_context={SLUG: slug})
    assert Path(made) == tmp_path / slug


@pytest.mark.parametrize(
    "name", ["日本語プロジェクト", "../../etc", "a/b", "🚀", "Ünïcödé", "x" * 100, "C:\\Users", "-"]
)
def test_the_slug_derived_from_any_name_is_valid(name: str, tmp_path: Path) -> None:
    made = Path(
        cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path), extra_context={"project_name": name})
    )
    assert made.parent == tmp_path
    assert f"# {name}\n" in (made / "README.md").read_text(encoding="utf-8")


def test_the_suggestion_in_a_refusal_is_itself_accepted() -> None:
    answers = dict.fromkeys(QUESTIONS, "x") | {"email": "a@b"}
    for answer, value, _ in REFUSED:
        if answer == SLUG:
            package = value.lower().replace("-", "_").replace(".", "_")
            refusal = problem(answers | {SLUG: value, "__package_name": package})
            assert refusal is not None
            better = refusal.rpartition("try '")[2].rstrip(".").rstrip("'")
            package = better.replace("-", "_")
            assert problem(answers | {SLUG: better, "__package_name": package}) is None, refusal


def test_the_command_line_exits_1_with_that_line_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(tmp_path), str(TEMPLATE), f"{SLUG}=json"],
        env=outside(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("Refused: project_slug 'json' gives the package name 'json', which would hide")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_its_output_who_has_left_does_not_cost_the_project(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", str(tmp_path), str(TEMPLATE)]
    with subprocess.Popen(command, env=outside(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == 0
    assert (tmp_path / "my-async-project" / "README.md").exists()


def test_a_refusal_over_an_existing_project_touches_nothing_of_it(tmp_path: Path) -> None:
    made = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path)))
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(FailedHookException):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            overwrite_if_exists=True,
            extra_context={"email": "nobody"},
        )
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}


def test_the_names_that_projects_install_are_all_taken() -> None:
    lines = (
        (TEMPLATE / "{{checked(cookiecutter.project_slug)}}" / "pyproject.toml")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    lines = [line.strip(' ",') for line in lines if line.startswith('    "')]
    for starter in STARTERS:
        lines += (TEMPLATE / "templates" / starter / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = {line.partition(">=")[0].partition("[")[0].lower().replace("-", "_") for line in lines if ">=" in line}
    assert {"aiohttp", "pytest", "cyclopts"} <= names
    assert names <= TAKEN


def test_there_is_no_hook_and_what_runs_instead_is_short() -> None:
    assert not list(TEMPLATE.glob("hooks/*.py"))
    text = (TEMPLATE / "async_template.py").read_text(encoding="utf-8")
    assert text.isascii()
    assert text.count("\n") <= 100
    imported = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
    standard = {"keyword", "sys", "collections.abc", "contextlib", "pathlib"}
    assert imported <= standard | {"cookiecutter.exceptions", "jinja2", "jinja2.ext", "jinja2.runtime"}
    for word in ("subprocess", "import os", "os.", "open(", "shutil", "write_", "unlink", "mkdir", "socket", "urllib"):
        assert word not in text


def test_without_hooks_bad_answers_are_refused_too(tmp_path: Path) -> None:
    bad = {"no_input": True, "accept_hooks": False, "extra_context": {"email": "nobody"}}
    with pytest.raises(FailedHookException, match="Refused: email 'nobody'"):
        cookiecutter(str(TEMPLATE), output_dir=str(tmp_path / "out"), **bad)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_were_changed_in_a_replay_file_are_refused_too(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    command = [sys.executable, "-m", "cookiecutter", "-o", str(tmp_path / "out"), str(TEMPLATE)]
    subprocess.run([*command, "--no-input"], env=outside(**home), check=True, stderr=subprocess.DEVNULL)
    (replay,) = (tmp_path / "home").rglob("*.json")
    answers = replay.read_text(encoding="utf-8")
    replay.write_text(answers.replace('"email": "', '"email": "no body '), encoding="utf-8")
    done = subprocess.run(
        [*command, "--replay", "-f"], env=outside(**home), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:16]) == (1, "Refused: email '")


def test_a_new_project_is_told_the_next_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"no_input": True, "output_dir": str(tmp_path), "overwrite_if_exists": True}
    cookiecutter(str(TEMPLATE), **answers)
    told = capsys.readouterr().err.split("\n")
    assert [line.strip() for line in told if line] == [
        "Next:  cd my-async-project",
        "uv run pytest",
        "uv run my-async-project --help",
    ]
    cookiecutter(str(TEMPLATE), **answers)
    assert capsys.readouterr().err == ""
