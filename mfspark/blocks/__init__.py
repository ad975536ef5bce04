"""Ratings to dense ids to CSR blocks."""
