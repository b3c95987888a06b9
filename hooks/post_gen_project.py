"""Print the next commands. This hook does not change the project."""

import os

# cruft runs this hook at every update, too. It sets no `_output_dir`, and nothing is
# printed then.
NEXT_COMMANDS = """{% if '_output_dir' in cookiecutter %}
Next:  cd {{ cookiecutter.project_slug }}
       git init && git add .
       uv run pytest
       uv run {{ cookiecutter.project_slug }} --help

{% endif %}"""

# This is the rendered copy, which cookiecutter would leave in the temporary folder.
os.remove(__file__)
try:
    # Not print(): if stderr has no reader, Python would fail when it flushes stderr at
    # its exit, and cookiecutter would then delete the project.
    os.write(2, NEXT_COMMANDS.encode())
except OSError:
    pass
