"""Check all answers once more.

The filters of local_extensions.py have checked them, except for those of a replay file,
which somebody may have edited. This check takes place while cookiecutter renders this
file; nothing is left to do when it runs.

{{ cookiecutter | check_all }}
"""

import os

os.remove(__file__)  # the rendered copy, which cookiecutter would leave behind
