"""Passes on an nn.Module, before export."""
