{% include "guards/watchdog.py" -%}
