"""A federation of real processes on this machine: starting kits, ending them, saying how they are."""
