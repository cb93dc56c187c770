"""Campaigns on one machine, and what is worked out of one that has been run."""
