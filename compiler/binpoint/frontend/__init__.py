"""From ONNX to a float graph in one layout, with as few ops as its values need."""
