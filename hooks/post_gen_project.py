"""Print the next commands. This hook changes no file of the project."""

import os

# cruft runs this hook too, at every update. It gives no `_output_dir`, and gets no
# text.
NEXT_COMMANDS = """{% if '_output_dir' in cookiecutter %}
Next:  cd {{ cookiecutter.project_slug }}
       git init && git add .
       uv run pytest
       uv run {{ cookiecutter.project_slug }} --help

{% endif %}"""

os.remove(__file__)  # the rendered copy, which cookiecutter would leave behind
try:
    # Not print(): if nobody reads stderr, Python would report that as a failure when it
    # exits, and cookiecutter would delete the project.
    os.write(2, NEXT_COMMANDS.encode())
except OSError:
    pass
