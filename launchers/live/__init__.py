"""The live page of campaigns: read-only, over a folder or a cluster's database."""
