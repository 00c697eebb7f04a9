"""Is it the same: interpreter, onnxruntime, the C on the host and on an emulated core."""
