"""Pages that need no network: the frame of a document, its tables, and the viewer of pictures."""
