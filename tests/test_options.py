"""An option that several starters have is described in the same words."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from .conftest import STARTERS, TEMPLATE

pytestmark = pytest.mark.quick

# The input and the output are different in each starter.
OF_THE_DOMAIN = {"source", "to"}


def options_of(starter: str) -> dict[str, str]:
    """Return the options of a starter with their help texts.

    The texts are in the docstring of `main`, or in `Parameter(help=...)`.
    """
    folder = TEMPLATE / "templates" / starter
    texts = in_docstring(folder / "app.py")
    for path in folder.glob("*.py"):
        texts |= in_parameters(path)
    assert texts
    return texts


def in_docstring(path: Path) -> dict[str, str]:
    """Return the arguments that the docstring of `main` describes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (main,) = (
        node
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "main"
    )
    arguments = (ast.get_docstring(main) or "").partition("Args:")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def in_parameters(path: Path) -> dict[str, str]:
    """Return the parameters and fields that are annotated with a help text."""
    texts = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        else:
            continue
        for part in ast.walk(annotation):
            if isinstance(part, ast.keyword) and part.arg == "help":
                texts[name] = text_of(part.value)
    return texts


def text_of(node: ast.expr) -> str:
    """Return the text of a string literal, or of an f-string without its values."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) for part in node.values if isinstance(part, ast.Constant)
        )
    return str(ast.literal_eval(node))


@pytest.mark.parametrize("starter", STARTERS)
def test_every_help_text_is_a_sentence(starter: str) -> None:
    for name, text in options_of(starter).items():
        assert text[0].isupper() or text[0] == '"', f"--{name} of {starter}: {text}"
        assert text.endswith("."), f"--{name} of {starter}: {text}"


def test_the_same_option_has_the_same_words_in_every_starter() -> None:
    """The first sentence is the same. A starter may add another one."""
    texts: dict[str, set[str]] = defaultdict(set)
    for starter in STARTERS:
        for name, text in options_of(starter).items():
            texts[name].add(text.partition(". ")[0].rstrip("."))
    different = {name for name, found in texts.items() if len(found) > 1}
    assert different <= OF_THE_DOMAIN, {name: texts[name] for name in different}
