"""Jobs: asked for over HTTP, kept in the store, and done by workers."""
