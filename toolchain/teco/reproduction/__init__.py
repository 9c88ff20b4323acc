"""Reproductions: the steps to a published table, each a command of teco, run in order."""
