"""The record of a bench run: its fields, its file, comparisons of two."""
