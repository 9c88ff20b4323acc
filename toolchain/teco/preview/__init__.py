"""What a film would look like, and how long it would take: one moment of it by every choice."""
