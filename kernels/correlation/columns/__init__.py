"""Correlation between the columns of one matrix; the public function stands in the package above."""
