{% include "conftest.py" -%}
