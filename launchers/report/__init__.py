"""The HTML report of a campaign: one file that needs no network to be read."""
