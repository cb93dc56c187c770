"""Whether a machine or a cluster has what a campaign needs."""
