"""Functions that the benchmarks share: options, rounds in turns, and results."""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def parser(doc: str | None, rounds: int | None = None) -> ArgumentParser:
    """Return a parser for the options that all benchmarks have.

    `doc` is the help text. The options are `--json` and, if `rounds` is given,
    `--rounds` with this default.
    """
    parser = ArgumentParser(
        description=doc, formatter_class=RawDescriptionHelpFormatter
    )
    if rounds is not None:
        parser.add_argument(
            "--rounds",
            type=int,
            default=rounds,
            metavar="N",
            help=f"Number of rounds; {rounds} by default.",
        )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="Write the results to this file as JSON.",
    )
    return parser


def in_turns(rounds: int, ways: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Call each function once per round; return the results of all rounds, by name.

    A first round is the warm-up. Its results are dropped.
    """
    results: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            result = way()
            if turn > 0:
                results[name].append(result)
    return results


def skip(contestant: str, reason: str) -> None:
    """Print that a contestant is skipped, on stderr."""
    print(f"{contestant} is skipped: {reason}", file=sys.stderr)


def keep(results: Mapping[str, object], file: Path | None) -> None:
    """Write the results as JSON, if a file is given."""
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
