"""The networks and crystal graphs of Long et al. (2021)."""
