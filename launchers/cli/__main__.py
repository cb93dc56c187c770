"""The command line as a module: ``python -m ccdcgan.launchers.cli``."""

from ccdcgan.launchers.cli.app import main

main()
