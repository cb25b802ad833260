"""The contract of an OPDJob: types, rules, conditions, names, documents. Knows no engine and no cluster."""
