{% include cookiecutter.starter ~ "/app.py" -%}
