"""Metrics of a table of codes: what each part of a code tells of known factors."""
