"""Training: data, losses, stages and the loop. Needs the ``train`` extra (torch)."""
