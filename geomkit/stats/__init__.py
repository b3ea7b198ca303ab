"""Statistics of all pairs of rows: one family a file."""
