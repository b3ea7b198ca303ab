"""Figures and reports over results that are there already; nothing here measures."""
