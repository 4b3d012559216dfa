"""A labelled set judged: metrics, plots and a report."""
