"""`python -m opd_runtime.cli`: the `opd` command where its script is not on the path."""

from . import main

main()
