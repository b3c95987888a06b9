"""Answers as if a person typed them at the prompt."""


def typed(text: str) -> str:
    """Return the `extra_context` value that arrives as exactly `text`.

    Cookiecutter renders the values of `extra_context` with Jinja, but not what is typed
    at a prompt. So the value is a Jinja expression: a string literal that contains the
    text in escaped form.
    """
    escaped = text.encode("unicode_escape", "surrogatepass").decode()
    escaped = escaped.replace('"', "\\x22")
    return f'{{{{ "{escaped}" }}}}'
