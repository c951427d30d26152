"""What is made large, row by row, and the stages it is made large in."""
