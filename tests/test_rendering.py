"""What comes out: exactly the right files, whichever way cookiecutter is asked; and a
user's work survives.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

import local_extensions

from .conftest import MODES, QUESTIONS, STARTERS, TEMPLATE, Render, Run

pytestmark = pytest.mark.quick

FILES = """
.gitattributes .github/dependabot.yml .github/workflows/ci.yml .gitignore
.pre-commit-config.yaml AGENTS.md CHANGELOG.md LICENSE README.md conftest.py
pyproject.toml src/exact/__init__.py src/exact/__main__.py src/exact/app.py
src/exact/py.typed tests/conftest.py tests/test_main.py
""".split()
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
GUARDS = sorted(
    path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("guards/*.py")
)
MARKER = "@pytest.mark.asyncio\n"


def files(project: Path) -> dict[str, bytes]:
    return {
        p.relative_to(project).as_posix(): p.read_bytes()
        for p in project.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def default(render: Render) -> Path:
    return render()


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("licence", QUESTIONS["license"])
def test_a_project_has_exactly_these_files(
    render: Render, starter: str, licence: str
) -> None:
    made = files(render(starter=starter, license=licence, project_slug="exact"))
    expected = {*FILES, *GUARDS}
    if licence == "Proprietary":
        expected.remove("LICENSE")
    folder = TEMPLATE / "templates" / starter
    for path in folder.iterdir():
        if path.suffix in {".py", ".html"} and path.name != "__init__.py":
            expected.add(f"src/exact/{path.name}")
    for path in folder.glob("tests/*.py"):
        expected.add(f"tests/{path.name}")
    for module in imported_shared_modules(starter):
        expected.add(f"src/exact/{module}.py")
        expected.add(f"tests/test_{module}.py")
    assert set(made) == expected


def imported_shared_modules(starter: str) -> set[str]:
    """Return the shared modules that a starter imports, found by Python's own parser.

    local_extensions.py reads the import statements by a regular expression.
    """
    shared = {path.stem for path in (TEMPLATE / "templates/shared").glob("*.py")}
    to_read = list((TEMPLATE / "templates" / starter).glob("*.py"))
    found: set[str] = set()
    while to_read:
        tree = ast.parse(to_read.pop().read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                module = str(node.module)
                if module in shared - found:
                    found.add(module)
                    to_read.append(TEMPLATE / f"templates/shared/{module}.py")
    return found


@pytest.mark.parametrize("starter", STARTERS)
def test_modules_and_guards_arrive_byte_for_byte(render: Render, starter: str) -> None:
    project = render(starter=starter, project_slug="exact")
    for name in ["app.py", *local_extensions.modules_of(starter)]:
        source = TEMPLATE / "templates" / starter / name
        if not source.exists():
            source = TEMPLATE / "templates" / "shared" / name
        assert (project / "src/exact" / name).read_bytes() == source.read_bytes()
    for name in ["conftest.py", *GUARDS]:
        assert (project / name).read_bytes() == (PROJECT / name).read_bytes()


@pytest.mark.parametrize(("starter", "mode"), list(product(STARTERS, MODES)))
def test_in_tests_only_imports_and_markers_change(
    render: Render, starter: str, mode: str
) -> None:
    project = render(starter=starter, asyncio_mode=mode, project_slug="exact")
    for name in ["conftest.py", *local_extensions.tests_of(starter)]:
        folder = starter
        if not (TEMPLATE / "templates" / starter / "tests" / name).exists():
            folder = "shared"
        path = TEMPLATE / "templates" / folder / "tests" / name
        expected = path.read_text(encoding="utf-8")
        for package in (starter, "shared"):
            expected = expected.replace(f"from {package}", "from exact")
            expected = expected.replace(f"import {package}", "import exact")
        if mode == "auto":
            expected = expected.replace(MARKER, "")
        assert (project / "tests" / name).read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(("starter", "mode"), list(product(STARTERS, MODES)))
def test_nothing_is_left_unrendered_and_lines_end_well(
    render: Render, starter: str, mode: str
) -> None:
    for name, content in files(render(starter=starter, asyncio_mode=mode)).items():
        text = content.decode("utf-8")
        assert "cookiecutter." not in text.replace("gh:org", ""), name
        assert not re.search(r"(?<!\$)\{\{|\{%|\{#", text), name
        assert "\r" not in text, name
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), name
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), name
        assert str(TEMPLATE) not in text, name


def test_the_mode_decides_about_the_markers(render: Render) -> None:
    assert MARKER in (render(asyncio_mode="strict") / "tests/test_main.py").read_text(
        encoding="utf-8"
    )
    assert MARKER not in (render(asyncio_mode="auto") / "tests/test_main.py").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("starter", STARTERS)
def test_the_readme_names_every_file(render: Render, starter: str) -> None:
    project = render(starter=starter)
    readme = (project / "README.md").read_text(encoding="utf-8")
    for name in set(files(project)) - {"README.md"}:
        assert f"`{name}`" in readme or f"`{Path(name).name}`" in readme, name


@pytest.mark.parametrize("starter", STARTERS)
def test_every_file_in_the_readmes_tables_of_files_exists(
    render: Render, starter: str
) -> None:
    project = render(starter=starter, project_slug="exact")
    readme = (project / "README.md").read_text(encoding="utf-8")
    tables = re.findall(
        r"^\| (?:file|module) \| .*\n((?:\|.*\n)+)", readme, re.MULTILINE
    )
    assert len(tables) == 3
    rows = "".join(tables).splitlines()
    names = [name for row in rows for name in re.findall("`(.*?)`", row.split("|")[1])]
    assert len(names) > 30
    for name in names:
        assert (project / name).exists() or (project / "src/exact" / name).exists()


def test_each_guard_has_a_row_with_what_its_docstring_says(default: Path) -> None:
    readme = (default / "README.md").read_text(encoding="utf-8")
    for name in GUARDS:
        docstring = ast.get_docstring(ast.parse((PROJECT / name).read_bytes()))
        assert docstring
        assert f"| `{name}` | {docstring.splitlines()[0]} |\n" in readme


def test_the_tree_in_the_templates_readme_is_the_projects(default: Path) -> None:
    readme = (TEMPLATE / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(
        r"^```text\nmy-project/\n(.*?)^```", readme, re.MULTILINE | re.DOTALL
    )
    shown, folders = set[str](), list[str]()
    for line in tree.splitlines():
        depth, names = line.index("─") // 4, line[line.index("─") + 3 :].split("  ")
        folders = folders[:depth]
        for name in filter(None, (part for text in names for part in text.split(", "))):
            if re.fullmatch(r"[\w./-]+", name) and (
                "." in name or name == "LICENSE" or name.endswith("/")
            ):
                shown.add("".join(folders) + name)
                folders += [name] if name.endswith("/") else []
    made = {name.replace("my_async_project", "my_project") for name in files(default)}
    for name in shown:
        # The tree shows "..." where the starter decides.
        assert name.endswith("...") or any(it.startswith(name) for it in made), (
            f"{name} is in the tree, but not in a project"
        )
    for name in made:
        assert any(
            it == name or (it.endswith("/") and name.startswith(it)) for it in shown
        ), f"{name} is missing"


def test_every_file_name_is_legal_on_windows(default: Path) -> None:
    in_git = subprocess.run(
        ["git", "ls-files"], cwd=TEMPLATE, capture_output=True, text=True, check=True
    ).stdout
    for name in [*in_git.splitlines(), *files(default)]:
        for part in name.split("/"):
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part), name
            assert not re.fullmatch(
                r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part
            ), name
        assert len(name) < 150


def test_a_second_render_keeps_edits_and_added_files(tmp_path: Path) -> None:
    made = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path)))
    app = made / "src/my_async_project/app.py"
    app.write_text("# mine\n", encoding="utf-8")
    (made / "src/my_async_project/mine.py").write_text("# mine too\n", encoding="utf-8")
    (made / "notes").mkdir()
    (made / "notes/x.txt").write_text("kept", encoding="utf-8")
    (made / "README.md").unlink()
    before = files(made)
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(tmp_path),
        overwrite_if_exists=True,
        skip_if_file_exists=True,
    )
    after = files(made)
    assert after.pop(
        "README.md"
    )  # what was missing is made again, and nothing else changes
    assert after == before


def test_an_overwriting_render_never_deletes_a_file(tmp_path: Path) -> None:
    made = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path)))
    original = files(made)
    for name in (
        "src/my_async_project/mine.py",
        "tests/test_mine.py",
        ".github/workflows/mine.yml",
        "LICENSE.old",
    ):
        (made / name).write_text("mine", encoding="utf-8")
    (made / "README.md").write_text("overwritten by -f, as it says", encoding="utf-8")
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(tmp_path),
        overwrite_if_exists=True,
        extra_context={"license": "Proprietary", "asyncio_mode": "strict"},
    )
    after = files(made)
    assert set(original) <= set(after)
    assert (
        after["src/my_async_project/mine.py"] == after["tests/test_mine.py"] == b"mine"
    )
    assert after["README.md"] != b"overwritten by -f, as it says"


def test_without_f_an_existing_folder_is_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "my-async-project").mkdir()
    (tmp_path / "my-async-project" / "precious").write_text("kept", encoding="utf-8")
    told = run(
        tmp_path, sys.executable, "-m", "cookiecutter", "--no-input", TEMPLATE, status=1
    )
    assert "already exists" in told
    assert "Traceback" not in told
    assert files(tmp_path) == {"my-async-project/precious": b"kept"}


def test_without_hooks_the_project_is_the_same(default: Path, tmp_path: Path) -> None:
    made = cookiecutter(
        str(TEMPLATE), no_input=True, accept_hooks=False, output_dir=str(tmp_path)
    )
    assert files(Path(made)) == files(default)


def test_from_a_git_url(
    repository: Path, default: Path, tmp_path: Path, run: Run
) -> None:
    home = str(tmp_path / "home")
    run(
        tmp_path,
        *(
            sys.executable,
            "-m",
            "cookiecutter",
            "--no-input",
            f"git+file://{repository}",
        ),
        HOME=home,
        USERPROFILE=home,
    )
    assert files(tmp_path / "my-async-project") == files(default)


def test_from_a_zip(repository: Path, default: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(
        str(tmp_path / "template"), "zip", repository.parent, repository.name
    )
    made = cookiecutter(archive, no_input=True, output_dir=str(tmp_path))
    assert files(Path(made)) == files(default)


def test_a_replay_gives_the_same_project(tmp_path: Path, run: Run) -> None:
    home = str(tmp_path / "home")
    command = (sys.executable, "-m", "cookiecutter", "-o")
    answers = (
        "project_name=Play It Again",
        "license=Proprietary",
        "description=as time goes by",
    )
    run(
        tmp_path,
        *command,
        tmp_path / "one",
        "--no-input",
        TEMPLATE,
        *answers,
        HOME=home,
        USERPROFILE=home,
    )
    run(
        tmp_path,
        *command,
        tmp_path / "two",
        "--replay",
        TEMPLATE,
        HOME=home,
        USERPROFILE=home,
    )
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "two" / "play-it-again").is_dir()


def test_no_git_no_uv_no_network_is_needed(tmp_path: Path, run: Run) -> None:
    told = run(
        tmp_path,
        sys.executable,
        "-m",
        "cookiecutter",
        "--no-input",
        TEMPLATE,
        PATH="",
        HOME=str(tmp_path),
    )
    assert "uv run my-async-project --help" in told


@pytest.mark.parametrize(
    ("licence", "python"),
    list(product(QUESTIONS["license"], QUESTIONS["python_version"])),
)
def test_licence_and_python_reach_every_place(
    render: Render, licence: str, python: str
) -> None:
    project = render(license=licence, python_version=python, full_name="Ada Lovelace")
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    workflow = (project / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert f'requires-python = ">={python}"' in pyproject
    tested = json.loads(re.findall(r"python: (\[.*\])", workflow)[0].replace("'", '"'))
    assert tested == [
        v for v in QUESTIONS["python_version"] if float(v) >= float(python)
    ]
    if licence == "Proprietary":
        assert 'license = "LicenseRef-Proprietary"' in pyproject
        assert not (project / "LICENSE").exists()
    else:
        assert f'license = "{licence}"' in pyproject
        assert "Ada Lovelace" in (project / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "answer",
    ["starter=nonsense", "python_version=3.10", "license=GPL", "asyncio_mode=legacy"],
)
def test_a_choice_that_does_not_exist_makes_nothing(
    answer: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="but the choices are"):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            extra_context=dict([answer.split("=")]),
        )
    assert list(tmp_path.iterdir()) == []
