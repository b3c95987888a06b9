{% include "guards/loops.py" -%}
