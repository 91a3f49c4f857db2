"""Rewrites of a model that prove themselves, and recipes made of them."""
