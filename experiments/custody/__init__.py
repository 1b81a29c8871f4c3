"""Is the private key in the client's memory? `make prove-custody` looks.

docs/explanation/experiment.md has the method, its limits and the figures.
"""
