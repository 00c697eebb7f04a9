"""Jinja2 templates of the generated code, read with importlib.resources."""
