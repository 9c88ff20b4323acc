"""Making a network smaller: structured pruning, and the search for one that fits a budget."""
