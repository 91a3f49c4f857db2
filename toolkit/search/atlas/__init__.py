"""The deployment atlas: what a search found for every target and budget, chosen from by limits and shown as a page."""
