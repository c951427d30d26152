"""The order in which training sees the rows."""
