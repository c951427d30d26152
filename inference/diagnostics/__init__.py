"""Whether a fit can be trusted: verdict, calibration, gaps, collapse, restarts."""
