"""The jobs: the arguments of each, and the chain of library calls that it is."""
