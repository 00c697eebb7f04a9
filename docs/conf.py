"""Settings of Sphinx."""

project = "binpoint"
extensions = ["myst_parser"]
exclude_patterns = ["**/__init__.py"]
myst_heading_anchors = 3
html_theme = "alabaster"
# Examples shorten lists with `…`, which no lexer knows.
suppress_warnings = ["misc.highlighting_failure"]
