"""Reports people read (HTML) and programs read (JSON)."""
