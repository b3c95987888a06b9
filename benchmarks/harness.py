"""What the benchmarks share: their options, their turns, and where their results go."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def parser(doc: str | None, rounds: int | None = None) -> ArgumentParser:
    """Return a parser with ``--json FILE`` and, if there is a default for it,
    ``--rounds N``.
    """
    parser = ArgumentParser(
        description=doc, formatter_class=RawDescriptionHelpFormatter
    )
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser


def in_turns(rounds: int, ways: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Go each way in turns; return what came of each round but the first, which is the
    warm-up.
    """
    results: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            result = way()
            if turn:
                results[name].append(result)
    return results


def keep(results: Mapping[str, object], file: Path | None) -> None:
    """Write the results as JSON, if there is a file for them."""
    if file:
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
