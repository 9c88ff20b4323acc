"""teco: TecoGAN video super-resolution from weights to a player."""

__version__ = "0.1.0"
