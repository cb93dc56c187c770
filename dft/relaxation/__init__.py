"""Relaxation of cell and positions, one result for every structure."""
