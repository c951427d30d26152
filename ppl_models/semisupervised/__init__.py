"""Semi-supervised models: some rows carry labels, most do not."""
