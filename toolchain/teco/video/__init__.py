"""Clips in and out: sources, sinks, their colour and clocks."""
