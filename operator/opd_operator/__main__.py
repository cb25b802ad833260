"""`python -m opd_operator` is `opd-operator`."""

from .app import main

main()
