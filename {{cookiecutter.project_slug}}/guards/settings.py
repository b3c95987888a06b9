"""The options and markers of the guards, and the package whose code is watched."""

from importlib.util import find_spec
from pathlib import Path

import pytest

OPT_OUTS = {
    "bare_mocks": "mocks without a spec are allowed",
    "blocks_loop": "blocking calls in the package and long CPU work are allowed",
    "leaves_tasks": "tasks may be left running",
    "leaves_timers": "timers (call_later, call_at) may be left in the loop",
    "leaves_generators": "async generators may be left unfinished",
    "leaves_threads": "threads may be left running",
    "leaves_signal_handlers": "signal handlers may be left installed",
    "loses_errors": "background tasks and callbacks may fail unnoticed",
    "unsafe_calls": "threads may call methods of the loop that are not thread-safe",
}
TOOLS = {
    "deadline(seconds)": "time limit of the test, instead of 10 seconds",
    "virtual_clock": "the loop's clock jumps: sleeps and timeouts take no real time",
    "shuffled(n)": "runs n times on a virtual clock, each with another task order",
}
# Folders in the root of a project that do not contain the package.
NO_PACKAGES = {
    "benchmarks",
    "build",
    "docs",
    "examples",
    "guards",
    "scripts",
    "test",
    "testing",
    "tests",
    "tools",
}


class Settings:
    """The configuration of the project, which is read once, when pytest starts."""

    def __init__(self) -> None:
        self.root = Path.cwd()
        self.packages: list[Path] = []
        self.allowed: frozenset[str] = frozenset()

    def read(self, config: pytest.Config) -> None:
        """Read pytest's configuration; raise UsageError for an unknown name."""
        self.root = config.rootpath
        self.allowed = frozenset(config.getini("guards_allow"))
        unknown = self.allowed - OPT_OUTS.keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise pytest.UsageError(f"guards_allow: unknown name {names}")
        names_of_packages = config.getini("guards_packages")
        if names_of_packages:
            self.packages = [find_package(name) for name in names_of_packages]
        else:
            self.packages = default_packages(self.root)


settings = Settings()


def add_options(parser: pytest.Parser, has_timeout: bool) -> None:
    """Add the options of the guards to pytest's configuration file.

    `has_timeout` says whether pytest-timeout is loaded. Without it pytest would refuse
    to start, because `timeout` in the configuration file would be unknown.
    """
    parser.addini(
        "guards_packages",
        "packages to watch for blocking calls; default: those in src/ or in the root",
        type="args",
    )
    parser.addini(
        "guards_allow",
        "guards that are off in the whole project, by the names of their markers",
        type="args",
    )
    if not has_timeout:
        parser.addini("timeout", "ignored: pytest-timeout is not loaded")


def add_markers(config: pytest.Config) -> None:
    for name, meaning in (OPT_OUTS | TOOLS).items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def default_packages(root: Path) -> list[Path]:
    """Return the folders of the packages in src/, or else in the root."""
    in_src = [file.parent for file in root.glob("src/*/__init__.py")]
    if in_src:
        return in_src
    in_root = [file.parent for file in root.glob("*/__init__.py")]
    return [folder for folder in in_root if folder.name not in NO_PACKAGES]


def find_package(name: str) -> Path:
    """Return the folder of a package, or the file of a module."""
    spec = find_spec(name)
    if spec is None:
        raise pytest.UsageError(f"guards_packages: cannot import {name}")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None:
        raise pytest.UsageError(f"guards_packages: {name} has no file")
    return Path(spec.origin)
