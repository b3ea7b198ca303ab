"""Pages that open from disk: one file each, with everything that it needs inside."""
