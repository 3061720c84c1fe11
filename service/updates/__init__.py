"""Living versions: updates of what was learned, and how two versions differ."""
