"""Answers are data: they arrive exactly as typed, and none of them runs as code."""

import subprocess
import sys
import tomllib
import unicodedata
from contextlib import chdir
from importlib.metadata import Distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cookiecutter.main import cookiecutter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uv_build import prepare_metadata_for_build_wheel

from local_extensions import RefusedError, one_line, package_name
from tools import user_environment

from .conftest import TEMPLATE, Render
from .typed import typed

pytestmark = pytest.mark.quick

HOSTILE = {
    "quotes": "say \"hi\" and 'ho'",
    "triple quotes": '"""',
    "single triple": "'''",
    "backslashes": "C:\\new\\table\\x00 \\",
    "ends in a backslash": "\\",
    "escaped quote": '\\"',
    "jinja expression": "{{ 7*7 }}",
    "jinja statement": "{% for x in y %}{% raw %}",
    "jinja comment": "{# gone #}",
    "workflow expression": "${{ github.token }}",
    "shell": "$(touch pwned) `touch pwned` ; touch pwned",
    "python in a string": '"; import os; os.system("touch pwned"); "',
    "python in a docstring": '"""\nimport os'.replace("\n", " "),
    "python format": "%s {0} {name} %(x)s",
    "toml injection": '", name = "other',
    "toml table": "[tool.ruff]",
    "yaml": "a: b # c",
    "html": "<script>alert(1)</script> &amp;",
    "markdown": "# `code` [link](javascript:x) | cell |",
    "rocket": "fast 🚀 and 👩‍👩‍👧‍👦",
    "lone combining mark": "\u0301e",
    "umlauts": "Käthe Müller-Großmann",
    "right to left": "مرحبا بالعالم",
    "direction override": "abc\u202etxt.exe",
    "cjk": "東京の猫",
    "zero width": "a\u200bb\ufeffc",
    "no-break space": "a\u00a0b",
    "emoji escape": "\\ud83d\\ude80",
    "200 characters": "w" * 200,
    "200 emoji": "🚀" * 200,
    "encoded word": "=?utf-8?q?x?=",
    "header": "Name: value, other@example.com (comment)",
    "commas and semicolons": "Lovelace, Ada; Countess <of>",
    "tojson's own": "</script>&'\u003c",
}


def assert_arrived(project: Path, description: str, full_name: str) -> None:
    """Assert that a TOML parser and an installer both read the text that was typed."""
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    table = tomllib.loads(pyproject)["project"]
    assert table["description"] == description
    assert table["authors"] == [{"name": full_name, "email": "ada@example.com"}]
    metadata = metadata_of(project)
    assert metadata["Summary"] == description
    assert metadata["Author-email"] == f"{full_name} <ada@example.com>"


def metadata_of(project: Path) -> dict[str, str]:
    """Return the metadata that an installer records for a project, by header."""
    # The build backend reads the project in the current folder.
    with TemporaryDirectory() as folder, chdir(project):
        name = prepare_metadata_for_build_wheel(folder)
        message = Distribution.at(Path(folder) / name).metadata
        return {header: message[header] for header in message}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_arrives_exactly_and_runs_nothing(
    text: str, tmp_path: Path
) -> None:
    assert len(HOSTILE) >= 30
    project = Path(
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            extra_context={
                "project_slug": "plain",
                "description": typed(text),
                "full_name": typed(text),
                "email": "ada@example.com",
            },
        )
    )
    assert_arrived(project, text, text)
    assert text in (project / "README.md").read_text(encoding="utf-8")
    assert text in (project / "LICENSE").read_text(encoding="utf-8")
    for path in project.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), path, "exec")
    assert not list(tmp_path.rglob("pwned"))
    assert not Path("pwned").exists()


free_text = (
    st.text(
        st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")),
        min_size=1,
        max_size=200,
    )
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=free_text, description=free_text, full_name=free_text)
def test_any_free_text_arrives_exactly(
    name: str, description: str, full_name: str
) -> None:
    with TemporaryDirectory() as out:
        made = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=out,
            extra_context={
                "project_name": typed(name[:100].strip()),
                "project_slug": "free-text",
                "description": typed(description),
                "full_name": typed(full_name),
                "email": "ada@example.com",
            },
        )
        assert_arrived(Path(made), description, full_name)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(max_size=300), slug=st.text(st.characters(codec="ascii"), max_size=60)
)
def test_any_text_is_accepted_or_refused_in_one_line(text: str, slug: str) -> None:
    try:
        package_name(slug)
        one_line(text, "description")
    except RefusedError as error:
        (line,) = str(error).splitlines()
        assert line.isascii()
        assert line.isprintable()
    else:
        assert not any(unicodedata.category(character) == "Cc" for character in text)


def test_text_that_is_typed_at_the_prompts_arrives_exactly(tmp_path: Path) -> None:
    name = '{{ 7*7 }} "q" \\ 🚀'
    full_name = 'Ada "the" {{ first }} 🚀'
    choices = ["1", "1", "1", "1"]
    lines = [name, "plain", name, full_name, "ada@example.com", *choices]
    subprocess.run(
        [sys.executable, "-m", "cookiecutter", "-o", str(tmp_path), str(TEMPLATE)],
        input="\n".join(lines) + "\n",
        env=user_environment(PYTHONUTF8="1", HOME=str(tmp_path / "home")),
        encoding="utf-8",
        capture_output=True,
        check=True,
    )
    assert_arrived(tmp_path / "plain", name, full_name)
    readme = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert f"# {name}\n" in readme


def test_the_users_cookiecutter_config_gives_the_default_answers(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "default_context: {full_name: Ada L., email: ada@example.com}\n",
        encoding="utf-8",
    )
    made = cookiecutter(
        str(TEMPLATE), no_input=True, output_dir=str(tmp_path), config_file=str(config)
    )
    pyproject = (Path(made) / "pyproject.toml").read_text(encoding="utf-8")
    assert 'name = "Ada L.", email = "ada@example.com"' in pyproject


def test_the_default_answers_arrive_too(render: Render) -> None:
    metadata = metadata_of(render())
    assert metadata["Author-email"] == "Your Name <you@example.com>"
