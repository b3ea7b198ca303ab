"""Larger than memory: rows in many files, anywhere, read when they are needed."""
