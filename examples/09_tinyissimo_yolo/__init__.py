"""A classifier of handwritten digits and its samples, shipped as the demo."""
