{% filter replace("from app import", "from " ~ cookiecutter.__package_name ~ ".app import") | replace("@pytest.mark.asyncio\n" if cookiecutter.asyncio_mode == "auto" else "", "") -%}
{% include cookiecutter.starter ~ "/test_mocks.py" -%}
{% endfilter -%}
