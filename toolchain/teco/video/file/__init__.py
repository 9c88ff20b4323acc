"""A video file at either end: what libav reads and writes, and what it does not do by itself."""
