"""People and machines: command line, local runs, stores, report."""
