"""Does a value matter? Splices, swaps and exchanges: everything that changes one run with another."""
