"""The order in which training sees the rows, and views of them."""
