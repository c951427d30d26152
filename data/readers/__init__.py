"""Readers of published files, one small module per format; none of them unpickles freely."""
