"""Print the next commands. Touches no file and no network."""

import json

if __name__ == "__main__":
    answers = json.loads({{ cookiecutter | tojson | tojson }})  # type: ignore  # noqa: F821  # fmt: skip
    slug = answers["project_slug"]
    print(f"\n{slug} is ready:\n\n    cd {slug}\n    uv run pytest\n    uv run {slug} --help\n")
