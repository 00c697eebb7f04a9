"""ONNX → Graph[FLOAT], and its clean-up."""
