"""Picture and sequence metrics by their official definitions."""
