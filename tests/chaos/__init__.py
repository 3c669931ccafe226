"""Random programs on real workers under random faults, judged by a plain Python model. `python -m tests.chaos --help`."""
