"""Ground floor: errors, files, the machine, arrays of pixels. Imports nothing else of teco."""
