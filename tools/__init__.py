"""Commands that make what stands in the repository or goes with a release, and what they share."""

from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parents[1]


def render(folder: Path, **answers: str) -> Path:
    """Render a project into ``folder``, with the template's defaults for what is not answered; return its folder."""
    options = {"no_input": True, "default_config": True, "output_dir": str(folder)}
    return Path(cookiecutter(str(TEMPLATE), extra_context=answers, **options))


def put_into_readme(begin: str, text: str, end: str) -> None:
    """Replace what stands in the README between two markers."""
    readme = TEMPLATE / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    readme.write_text(before + begin + text + end + after, encoding="utf-8")
