"""What the stories of single papers are made of."""
