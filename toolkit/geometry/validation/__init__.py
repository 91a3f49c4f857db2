"""Checks that answer with a report."""
