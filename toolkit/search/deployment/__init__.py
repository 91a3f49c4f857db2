"""Deployments as what is searched: which there are, what each costs and keeps of the quality, and the best of them."""
