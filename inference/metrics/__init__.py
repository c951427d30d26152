"""Metrics of a table of codes beside what is known of them: values in, numbers out."""
