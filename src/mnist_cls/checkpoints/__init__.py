"""Weights in files: found by a path or a name, checked, read without running any code, and written whole."""
