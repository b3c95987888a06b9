"""The options of all starters: the same name means the same, in the same words."""

import ast
import re
from collections import defaultdict

import pytest

from .conftest import STARTERS, TEMPLATE

pytestmark = pytest.mark.quick


def options_of(starter: str) -> dict[str, str]:
    """Return the options of a starter's `main`, and the help text of each."""
    path = TEMPLATE / "templates" / starter / "app.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (main,) = (
        node
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "main"
    )
    docstring = ast.get_docstring(main) or ""
    entries = re.findall(
        r"^    (\w+): (.*(?:\n {8}.*)*)", docstring.partition("Args:")[2], re.MULTILINE
    )
    texts = {name: " ".join(text.split()) for name, text in entries}
    arguments = main.args
    names = [argument.arg for argument in [*arguments.args, *arguments.kwonlyargs]]
    if arguments.vararg is not None:
        names.insert(0, arguments.vararg.arg)
    assert list(texts) == names, f"the docstring of {starter}'s main lists others"
    return texts


@pytest.mark.parametrize("starter", STARTERS)
def test_every_option_has_a_help_text_that_is_a_sentence(starter: str) -> None:
    for name, text in options_of(starter).items():
        assert text[0].isupper() or text[0] == '"', f"--{name} of {starter}: {text}"
        assert text.endswith("."), f"--{name} of {starter}: {text}"


def test_the_same_option_has_the_same_words_in_every_starter() -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for starter in STARTERS:
        for name, text in options_of(starter).items():
            texts[name].add(text)
    different = {name: found for name, found in texts.items() if len(found) > 1}
    assert not different
