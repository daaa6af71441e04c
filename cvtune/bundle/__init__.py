"""From the trained classifier to the ONNX bundle, and the gate it has to pass."""
