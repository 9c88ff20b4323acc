"""The same functions arranged for runtimes."""
