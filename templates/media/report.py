"""Report results: one line per file, and a summary at the end."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import Plan
from .text import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What became of one file. `error` is None if all outputs were made."""

    source: Path
    outputs: list[Path]
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


class Report:
    """Prints what became of the files, and counts them.

    Files that were made go to stdout, failures to stderr. With `as_json`, both go to
    stdout as one JSON object per line, and failures to stderr as well.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.made = 0
        self.failed = 0
        self.deleted = 0
        self.up_to_date = 0
        self.skipped: Counter[str] = Counter()

    def add_plan(self, plan: Plan, deleted: Sequence[Path] = ()) -> None:
        """Report problems and deleted outputs; count the files that are up to date."""
        self.up_to_date = plan.up_to_date
        self.skipped = plan.skipped
        for problem in plan.problems:
            self.add(Result(problem.path, [], error=problem.reason))
        for path in deleted:
            self.add_deleted(path)

    def add(self, result: Result) -> None:
        """Report one result."""
        for warning in result.warnings:
            log.warning("%s: %s", printable(result.source), printable(warning))
        if self.as_json:
            print(json.dumps(to_json(result)))
        if result.error is None:
            self.made += 1
            if not self.as_json:
                print(printable(f"{result.source}: {describe(result.details)}"))
        else:
            self.failed += 1
            message = printable(f"{result.source}: {result.error}")
            print(message, file=sys.stderr)

    def add_deleted(self, path: Path) -> None:
        """Report an output that was deleted."""
        self.deleted += 1
        if self.as_json:
            print(json.dumps({"file": str(path), "status": "deleted"}))
        else:
            print(printable(f"{path}: deleted"))

    def summary(self) -> str:
        """Return the number of files of each kind of result, in one line."""
        parts = [
            f"{self.made} made",
            f"{self.up_to_date} up to date",
            f"{self.failed} failed",
            f"{self.skipped.total()} skipped",
        ]
        if self.deleted:
            parts.append(f"{self.deleted} deleted")
        text = ", ".join(parts)
        if self.skipped:
            counts = [
                f"{count} {suffix}" for suffix, count in self.skipped.most_common()
            ]
            text += f" ({', '.join(counts)})"
        return printable(text)


def describe(details: dict[str, Any]) -> str:
    """Return details for people, such as "width=512 height=384"."""
    known = {name: value for name, value in details.items() if value not in (None, [])}
    return " ".join(f"{name}={value}" for name, value in known.items())


def to_json(result: Result) -> dict[str, Any]:
    """Return a result as a JSON object."""
    data: dict[str, Any] = {
        "file": str(result.source),
        "status": "made" if result.error is None else "failed",
    }
    if result.error is None:
        data["outputs"] = [str(output) for output in result.outputs]
        data |= result.details
    else:
        data["error"] = result.error
    if result.warnings:
        data["warnings"] = result.warnings
    return data
