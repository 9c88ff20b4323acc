"""The runtimes of NVIDIA GPUs, and the device memory that they share."""
