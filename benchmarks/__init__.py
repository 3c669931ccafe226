"""Measurements beside plain peers on the same servers: `make bench`, or `python -m benchmarks --only steps --rounds 3`.

In DALP_APPS of its own workers, which so know its workflows and its bare Celery task.
"""
