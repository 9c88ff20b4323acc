"""A record for people: terminal, Markdown, HTML."""
