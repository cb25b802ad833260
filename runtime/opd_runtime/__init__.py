"""The data plane: everything that runs inside an OPDJob's Ray cluster, and the `opd` command. Knows no Kubernetes."""
