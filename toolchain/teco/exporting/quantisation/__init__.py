"""Eight-bit integers for the convolutions that bear it: ranges, sensitivity, the gate, the clock.

Start at :func:`teco.exporting.quantisation.run.quantise`. Nothing is imported here, because
manifests are read with :mod:`teco.model.int8` alone.
"""
