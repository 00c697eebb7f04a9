"""A small transformer on handwritten digits."""
