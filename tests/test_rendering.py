"""A render makes exactly the right files, and never deletes a user's work."""

import ast
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
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
COOKIECUTTER = (sys.executable, "-m", "cookiecutter")


def files(project: Path) -> dict[str, bytes]:
    """Return the contents of a project's files, by their paths."""
    contents = {}
    for path in project.rglob("*"):
        if path.is_file():
            contents[path.relative_to(project).as_posix()] = path.read_bytes()
    return contents


@pytest.fixture(scope="module")
def default(render: Render) -> Path:
    """A project with the default answers."""
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
def test_modules_and_guards_arrive_unchanged(render: Render, starter: str) -> None:
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
def test_no_placeholder_is_left_and_no_line_ends_in_a_space(
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


@pytest.mark.parametrize(("mode", "has_marker"), [("strict", True), ("auto", False)])
def test_only_mode_strict_needs_the_marker(
    render: Render, mode: str, has_marker: bool
) -> None:
    test = render(asyncio_mode=mode) / "tests/test_main.py"
    assert (MARKER in test.read_text(encoding="utf-8")) == has_marker


@pytest.mark.parametrize("starter", STARTERS)
def test_a_projects_readme_names_every_file(render: Render, starter: str) -> None:
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
    shown = paths_in_tree(tree)
    made = {name.replace("my_async_project", "my_project") for name in files(default)}
    for name in shown:
        # The tree has "..." for files that depend on the starter.
        if not name.endswith("..."):
            is_made = any(path.startswith(name) for path in made)
            assert is_made, f"{name} is in the tree, but not in a project"
    for name in made:
        folders = [path for path in shown if path.endswith("/")]
        is_shown = name in shown or name.startswith(tuple(folders))
        assert is_shown, f"{name} is not in the tree"


def paths_in_tree(tree: str) -> set[str]:
    """Return the paths of the files and folders in a picture of a tree.

    A line has one or several names, separated by commas, and then a comment. The
    folders end in a slash.
    """
    paths = set()
    folders: list[str] = []
    for line in tree.splitlines():
        begin = line.index("─")
        del folders[begin // 4 :]
        for name in re.split(r"  |, ", line[begin + 3 :]):
            if not is_path(name):
                continue
            paths.add("".join(folders) + name)
            if name.endswith("/"):
                folders.append(name)
    return paths


def is_path(text: str) -> bool:
    """Say whether a text in a tree is the name of a file or folder."""
    if not re.fullmatch(r"[\w./-]+", text):
        return False
    return "." in text or text == "LICENSE" or text.endswith("/")


def test_every_file_name_is_legal_on_windows(default: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=TEMPLATE, capture_output=True, text=True, check=True
    ).stdout
    forbidden = re.compile(r'[<>:"\\|?*\x00-\x1f]|[. ]$')
    device = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
    for name in [*tracked.splitlines(), *files(default)]:
        for part in name.split("/"):
            assert not forbidden.search(part), name
            assert not device.fullmatch(part), name
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
    # The missing file is created again, and no other file changes.
    assert after.pop("README.md")
    assert after == before


def test_an_overwriting_render_never_deletes_a_file(tmp_path: Path) -> None:
    made = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(tmp_path)))
    original = files(made)
    added = [
        "src/my_async_project/mine.py",
        "tests/test_mine.py",
        ".github/workflows/mine.yml",
        "LICENSE.old",
    ]
    for name in added:
        (made / name).write_text("mine", encoding="utf-8")
    (made / "README.md").write_text("edited", encoding="utf-8")
    cookiecutter(
        str(TEMPLATE),
        no_input=True,
        output_dir=str(tmp_path),
        overwrite_if_exists=True,
        extra_context={"license": "Proprietary", "asyncio_mode": "strict"},
    )
    after = files(made)
    assert set(original) <= set(after)
    for name in added:
        assert after[name] == b"mine"
    assert after["README.md"] != b"edited"


def test_without_f_an_existing_folder_is_not_changed(tmp_path: Path, run: Run) -> None:
    (tmp_path / "my-async-project").mkdir()
    (tmp_path / "my-async-project" / "precious").write_text("kept", encoding="utf-8")
    output = run(tmp_path, *COOKIECUTTER, "--no-input", TEMPLATE, status=1)
    assert "already exists" in output
    assert "Traceback" not in output
    assert files(tmp_path) == {"my-async-project/precious": b"kept"}


def test_without_hooks_the_project_is_the_same(default: Path, tmp_path: Path) -> None:
    made = cookiecutter(
        str(TEMPLATE), no_input=True, accept_hooks=False, output_dir=str(tmp_path)
    )
    assert files(Path(made)) == files(default)


def test_a_git_url_gives_the_same_project(
    repository: Path, default: Path, tmp_path: Path, run: Run
) -> None:
    home = str(tmp_path / "home")
    command = (*COOKIECUTTER, "--no-input", f"git+file://{repository}")
    run(tmp_path, *command, HOME=home, USERPROFILE=home)
    assert files(tmp_path / "my-async-project") == files(default)


def test_a_zip_file_gives_the_same_project(
    repository: Path, default: Path, tmp_path: Path
) -> None:
    archive = shutil.make_archive(
        str(tmp_path / "template"), "zip", repository.parent, repository.name
    )
    made = cookiecutter(archive, no_input=True, output_dir=str(tmp_path))
    assert files(Path(made)) == files(default)


def test_a_replay_gives_the_same_project(tmp_path: Path, run: Run) -> None:
    home = str(tmp_path / "home")
    answers = (
        "project_name=Play It Again",
        "license=Proprietary",
        "description=as time goes by",
    )
    first = ("-o", tmp_path / "one", "--no-input", TEMPLATE, *answers)
    run(tmp_path, *COOKIECUTTER, *first, HOME=home, USERPROFILE=home)
    second = ("-o", tmp_path / "two", "--replay", TEMPLATE)
    run(tmp_path, *COOKIECUTTER, *second, HOME=home, USERPROFILE=home)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert (tmp_path / "two" / "play-it-again").is_dir()


def test_a_render_needs_no_other_program(tmp_path: Path, run: Run) -> None:
    command = (*COOKIECUTTER, "--no-input", TEMPLATE)
    output = run(tmp_path, *command, PATH="", HOME=str(tmp_path))
    assert "uv run my-async-project --help" in output


@pytest.mark.parametrize(
    ("licence", "python"),
    list(product(QUESTIONS["license"], QUESTIONS["python_version"])),
)
def test_licence_and_python_version_are_the_same_in_all_files(
    render: Render, licence: str, python: str
) -> None:
    project = render(license=licence, python_version=python, full_name="Ada Lovelace")
    pyproject = (project / "pyproject.toml").read_text(encoding="utf-8")
    workflow = (project / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert f'requires-python = ">={python}"' in pyproject
    tested = yaml.safe_load(workflow)["jobs"]["test"]["strategy"]["matrix"]["python"]
    versions = QUESTIONS["python_version"]
    assert tested == versions[versions.index(python) :]
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
def test_an_unknown_choice_is_refused_and_leaves_nothing_on_disk(
    answer: str, tmp_path: Path
) -> None:
    name, value = answer.split("=")
    with pytest.raises(ValueError, match="but the choices are"):
        cookiecutter(
            str(TEMPLATE),
            no_input=True,
            output_dir=str(tmp_path),
            extra_context={name: value},
        )
    assert list(tmp_path.iterdir()) == []
