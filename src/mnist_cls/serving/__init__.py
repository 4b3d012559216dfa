"""Serve predictions and forward passes over HTTP."""
