"""VASP: settings, inputs, runs under custodian, and calculations of as many runs as it takes."""
