"""Answers as a person types them at the prompt."""


def typed(text: str) -> str:
    """Give the ``extra_context`` value that arrives as exactly ``text``.

    What comes as ``key=value`` or ``extra_context`` cookiecutter renders as Jinja; what
    is typed at a prompt it does not. A Jinja string literal that holds the text,
    escaped, renders to the text.
    """
    return (
        '{{ "'
        + text.encode("unicode_escape", "surrogatepass").decode().replace('"', "\\x22")
        + '" }}'
    )
