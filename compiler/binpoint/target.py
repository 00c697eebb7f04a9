"""Target: what is known of a device, read from a TOML file."""
