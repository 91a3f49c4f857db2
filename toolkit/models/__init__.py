"""The zoo: networks that come with the toolkit, by name."""

from toolkit.models.registry import Entry, configured, entries, entry, is_name, names

__all__ = ["Entry", "configured", "entries", "entry", "is_name", "names"]
