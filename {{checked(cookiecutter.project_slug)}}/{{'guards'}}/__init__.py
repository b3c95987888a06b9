{% include "guards/__init__.py" -%}
