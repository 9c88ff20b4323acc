"""Eight-bit integers for the convolutions that bear it: ranges, sensitivity, the gate, the clock.

Start at :func:`teco.quantise.run.quantise`. Nothing is imported here, because manifests are read
with :mod:`teco.quantise.record` alone.
"""
