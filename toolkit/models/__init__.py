"""The zoo: networks that come with the toolkit, by name."""

from toolkit.models.registry import Entry, entry, names

__all__ = ["Entry", "entry", "names"]
