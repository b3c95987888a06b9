"""An answer that cannot give a working project is refused at once, in one line.

A refused answer leaves nothing on the disk, however it was given.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

from local_extensions import TAKEN_NAMES, RefusedError, package_name
from tools import user_environment

from .conftest import STARTERS, TEMPLATE, Run
from .typed import typed

pytestmark = pytest.mark.quick

SLUG = "project_slug"
LONG = "x" * 300
REFUSED = [
    ("project_name", "", "empty"),
    ("project_name", "   ", "empty"),
    ("project_name", LONG, "100"),
    ("project_name", "two\nlines", "line break"),
    ("project_name", "bell\a", "control character"),
    ("project_name", "nul\0", "control character"),
    ("project_name", "\u2028", "line break"),
    ("project_name", "asyncio", "module of Python itself"),
    ("project_name", "Test", "module of Python itself"),
    ("project_name", "class", "Python keyword"),
    ("project_name", "3 Musketeers", "does not begin with a letter"),
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
    (SLUG, "/tmp/x", "distribution"),  # noqa: S108 - it is never created
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
    (SLUG, "json", "module of Python itself"),
    (SLUG, "JSON", "module of Python itself"),
    (SLUG, "test", "module of Python itself"),
    (SLUG, "import", "Python keyword"),
    (SLUG, "Async", "Python keyword"),
    (SLUG, "2fast", "does not begin with a letter"),
    (SLUG, "aiohttp", "already use"),
    (SLUG, "pytest-asyncio", "already use"),
    (SLUG, "tests", "already use"),
    (SLUG, "guards", "already use"),
]


@pytest.mark.parametrize(
    ("answer", "value", "rule"), REFUSED, ids=lambda text: repr(text)[:24]
)
def test_a_bad_answer_is_refused_in_one_line_and_leaves_nothing_on_disk(
    answer: str,
    value: str,
    rule: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a" / "folder" / "to" / "write" / "in"
    out.mkdir(parents=True)
    with pytest.raises(RefusedError, match="Refused: ") as refused:
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(out),
            extra_context={answer: typed(value)},
        )
    (line,) = str(refused.value).splitlines()
    assert capfd.readouterr() == ("", "")
    # A bad project name may give a bad slug, which is then the answer that is refused.
    assert answer in line or answer == "project_name"
    assert rule in line
    assert ": try " in line or "write it as" in line
    assert line.isascii()
    assert set(tmp_path.rglob("*")) <= {out, *out.parents}


@pytest.mark.parametrize(
    "slug",
    [
        "x",
        "a-b_c.d",
        "X1",
        "my.project",
        "match",
        "x" * 40,
        "async-project",
        "app",
        "a--b",
        "etl",
    ],
)
def test_every_valid_slug_is_accepted(slug: str, tmp_path: Path) -> None:
    made = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(tmp_path),
        extra_context={SLUG: slug},
    )
    assert Path(made) == tmp_path / slug


@pytest.mark.parametrize(
    "name",
    [
        "日本語プロジェクト",
        "../../etc",
        "a/b",
        "🚀",
        "Ünïcödé",
        "x" * 100,
        "C:\\Users",
        "-",
    ],
)
def test_the_slug_derived_from_any_name_is_valid(name: str, tmp_path: Path) -> None:
    made = Path(
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            extra_context={"project_name": name},
        )
    )
    assert made.parent == tmp_path
    assert f"# {name}\n" in (made / "README.md").read_text(encoding="utf-8")


def test_a_suggested_slug_is_accepted() -> None:
    slugs = [value for answer, value, _ in REFUSED if answer == SLUG]
    for slug in slugs:
        with pytest.raises(RefusedError) as refused:
            package_name(slug)
        suggestion = str(refused.value).rpartition("try '")[2].removesuffix("'.")
        assert package_name(suggestion)


def test_the_suggestion_for_several_words_is_these_words() -> None:
    with pytest.raises(RefusedError, match="try 'tea-room'"):
        package_name("Tea room")


def cookiecutter_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cookiecutter", *map(str, arguments)]


def test_the_command_line_prints_one_line_and_exits_with_1(tmp_path: Path) -> None:
    done = subprocess.run(
        cookiecutter_command("--no-input", "-o", tmp_path, TEMPLATE, f"{SLUG}=json"),
        env=user_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line == (
        "Refused: project_slug 'json' gives the package name 'json', which is a module "
        "of Python itself: try 'json-app'."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_bad_answer_is_refused_before_the_next_question(tmp_path: Path) -> None:
    done = subprocess.run(
        cookiecutter_command("-o", tmp_path / "made", TEMPLATE),
        env=user_environment(
            TERM="dumb", HOME=str(tmp_path), USERPROFILE=str(tmp_path)
        ),
        input="My Project\njson\n",
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "[2/9]" in output
    assert "[3/9]" not in output
    assert output.count("Refused: project_slug 'json'") == 1
    assert "Traceback" not in output
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("command", ["create", "link"])
def test_cruft_refuses_the_same_answers_in_one_line(
    command: str, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "project", check=True)
    context = json.dumps({"email": "not an address"})
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cruft", command, str(repository)),
            *("--no-input", "--extra-context", context),
        ],
        cwd=tmp_path / "project",
        env=user_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines() == [
        "Refused: email 'not an address' is not of the form name@host, with the name "
        "in ASCII: try 'you@example.com'."
    ]
    assert [path.name for path in (tmp_path / "project").iterdir()] == [".git"]


def test_a_render_succeeds_if_its_output_has_no_reader(tmp_path: Path) -> None:
    with subprocess.Popen(
        cookiecutter_command("--no-input", "-o", tmp_path, TEMPLATE),
        env=user_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == 0
    assert (tmp_path / "my-async-project" / "README.md").exists()


def test_a_refused_answer_does_not_change_an_existing_project(tmp_path: Path) -> None:
    made = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path)))
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(RefusedError):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            overwrite_if_exists=True,
            extra_context={"email": "nobody"},
        )
    after = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert before == after


def test_the_names_of_all_requirements_are_taken() -> None:
    pyproject = TEMPLATE / "{{cookiecutter.project_slug}}" / "pyproject.toml"
    lines = []
    for line in pyproject.read_text(encoding="utf-8").splitlines():
        if line.startswith('    "'):
            lines.append(line.strip(' ",'))
    for starter in STARTERS:
        requirements = TEMPLATE / "templates" / starter / "requirements.txt"
        lines += requirements.read_text(encoding="utf-8").splitlines()
    names = set()
    for line in lines:
        if ">=" in line:
            name = line.partition(">=")[0].partition("[")[0]
            names.add(name.lower().replace("-", "_"))
    assert {"aiohttp", "pytest", "cyclopts"} <= names
    assert names <= TAKEN_NAMES


# --- Hooks


def test_hooks_import_only_os_and_are_short() -> None:
    hooks = sorted(path for path in TEMPLATE.glob("hooks/*") if path.is_file())
    assert [hook.name for hook in hooks] == [
        "post_gen_project.py",
        "pre_gen_project.py",
    ]
    for hook in hooks:
        text = hook.read_text(encoding="utf-8")
        assert text.isascii()
        assert text.count("\n") <= 60
        assert re.findall(r"^ *(?:import|from) .*", text, re.MULTILINE) == ["import os"]


def test_a_bad_answer_is_refused_without_hooks(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="Refused: email 'nobody'"):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            accept_hooks=False,
            output_dir=str(tmp_path / "out"),
            extra_context={"email": "nobody"},
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"email": "no body"}, "email 'no body' is not of the form"),
        ({"email": "ada@example.com"}, "__email 'you@example.com' does not follow"),
        ({"project_slug": "json"}, "project_slug 'json' gives the package name"),
        (
            {"project_slug": "other"},
            "__package_name 'my_async_project' does not",
        ),
        ({"__package_name": "os; import x"}, "__package_name 'os; import x' does not"),
        ({"full_name": 'Ada "L."'}, "__full_name 'Your Name' does not follow"),
        ({"starter": "nonsense"}, "starter 'nonsense' is not one of the choices"),
        ({"license": "GPL"}, "license 'GPL' is not one of the choices"),
    ],
    ids=str,
)
def test_an_edited_replay_file_is_refused(
    edit: dict[str, str], reason: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    environment = user_environment(HOME=str(home), USERPROFILE=str(home))
    command = cookiecutter_command("-o", tmp_path / "made", "--no-input", TEMPLATE)
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    (replay,) = home.rglob("*.json")
    context = json.loads(replay.read_text(encoding="utf-8"))
    context["cookiecutter"] |= edit
    replay.write_text(json.dumps(context), encoding="utf-8")

    done = subprocess.run(
        cookiecutter_command("-o", tmp_path / "again", "--replay", TEMPLATE),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"Refused: {reason}" in done.stdout
    assert list((tmp_path / "again").iterdir()) == []


def test_hooks_leave_no_temporary_files(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    subprocess.run(
        cookiecutter_command("--no-input", "-o", tmp_path, TEMPLATE),
        env=user_environment(TMPDIR=str(temporary), TEMP=str(temporary)),
        check=True,
        stderr=subprocess.DEVNULL,
    )
    assert list(temporary.iterdir()) == []


def test_the_next_commands_are_printed_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path))
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert [line.strip() for line in stderr.splitlines() if line] == [
        "Next:  cd my-async-project",
        "git init && git add .",
        "uv run pytest",
        "uv run my-async-project --help",
    ]


def test_cruft_prints_no_next_commands(
    repository: Path, tmp_path: Path, run: Run
) -> None:
    command = (sys.executable, "-m", "cruft", "create", repository, "--no-input")
    assert "Next:" not in run(tmp_path, *command)
    assert (tmp_path / "my-async-project" / "README.md").exists()
