"""Where training sequences come from: clips, folders, LMDB, stores, degradations."""
