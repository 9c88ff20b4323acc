"""What a network will take, told before it is built, and how right that was where it was measured.

``tensors`` lists what the deployed step computes, ``memory`` adds it up, ``records`` holds what was
measured (by ``scripts/measure_memory.py``), ``runtimes`` compares the two.
"""
