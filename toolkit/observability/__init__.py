"""Metrics, service levels and spans; handed in, never global."""
