"""Facts about devices, one TOML file each, read with importlib.resources."""
