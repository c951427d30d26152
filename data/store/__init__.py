"""Rows on disk: h5 files that are written once and read in blocks."""
