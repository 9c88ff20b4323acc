"""Latency and memory of one thing at a time, and the statistics of both."""
