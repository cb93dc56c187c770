"""jobflow Makers that join structures and networks into campaigns, and what they write."""
