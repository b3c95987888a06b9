"""The text of a greeting."""


def greeting(name: str) -> str:
    """Return the greeting for `name`."""
    return f"Hello, {name}!"
