"""Correlation between matching rows of two matrices; the public function stands in the package above."""
