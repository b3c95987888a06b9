"""Check all answers again.

The filters of local_extensions.py have checked them, except for those of a replay file,
which may have been edited. The check takes place when cookiecutter renders this file,
so the rendered code has nothing to check.

{{ cookiecutter | check_all }}
"""

import os

# This is the rendered copy, which cookiecutter would leave in the temporary folder.
os.remove(__file__)
