"""Kernels for instruction set extensions: one module a family, each refusing what it cannot do."""
