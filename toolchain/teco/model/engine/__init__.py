"""TensorRT and TensorRT-RTX engine files: header, manifest, precision, fit to a machine."""
