"""From weights to files that runtimes open: ONNX, quantisation, engines."""
