"""A small classifier of six bits, as fast as the part allows."""
