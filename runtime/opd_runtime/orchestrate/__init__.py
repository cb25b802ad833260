"""Puts the parts together with Ray: who runs where, in which order, and what happens when one dies. Holds no maths."""
