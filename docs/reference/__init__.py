"""Reference pages that the command line prints, read with importlib.resources."""
