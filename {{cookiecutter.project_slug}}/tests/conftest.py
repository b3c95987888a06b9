{% filter as_project_test -%}
{% include cookiecutter.starter ~ "/tests/conftest.py" -%}
{% endfilter -%}
