"""Playing a clip enlarged in a player of this machine."""
