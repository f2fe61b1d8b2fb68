"""CNTK's networks, of versions 1 and 2."""
