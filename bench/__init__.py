"""Reproducible studies and speed suites over geomkit, run from a clone: ``python -m bench``."""
