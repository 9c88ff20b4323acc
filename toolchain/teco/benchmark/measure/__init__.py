"""What the bench runs: candidates, worker processes, end-to-end runs and hardware ceilings."""
