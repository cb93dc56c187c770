"""Stores of documents and of large results, and the spool before them."""
