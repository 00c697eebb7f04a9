"""Exact arithmetic: scales, integer types, ranges, rounding, requantizing; no graphs."""
