"""Gives starters that run in place the guards of the projects that they become."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

TEMPLATES = Path(__file__).parent
PROJECT = TEMPLATES.parent / "{{cookiecutter.project_slug}}"


def pytest_configure(config: pytest.Config) -> None:
    # Cookiecutter copies everything in the project folder, also compiled files.
    sys.dont_write_bytecode = True
    # The guards are imported from here.
    sys.path.insert(0, str(PROJECT))
    spec = spec_from_file_location("guards_conftest", PROJECT / "conftest.py")
    assert spec
    assert spec.loader
    guards = module_from_spec(spec)
    spec.loader.exec_module(guards)
    # This calls the functions of the guards that set it up, too.
    config.pluginmanager.register(guards, "guards")
    guards.settings.settings.packages = [
        path.parent for path in TEMPLATES.glob("*/app.py")
    ]
