"""Proposal sources: where the candidates of a round come from, each in one file."""
