"""The starter as a package that runs in place; a project has its own `__init__.py`."""

from pathlib import Path

# In a project, the shared modules that this package imports are in its own folder.
__path__.append(str(Path(__file__).parents[1] / "shared"))
