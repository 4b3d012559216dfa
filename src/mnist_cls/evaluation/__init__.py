"""Evaluation on a labelled set: metrics, plots and a report."""
