{% include "guards/cancellation.py" -%}
