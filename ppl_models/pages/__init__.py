"""Pages made of cards, records and posteriors."""
