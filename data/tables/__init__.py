"""Rows in memory: tables with hidden entries, splits, and what is known of labels."""
