"""How `gunicorn dalp.wsgi` serves, unless its own options or GUNICORN_CMD_ARGS say otherwise; WEB_CONCURRENCY: how many processes.

Requests wait for PostgreSQL most of their time, so a process works on several; and clients keep their connections.
"""

worker_class = "gthread"
threads = 8  # each has a connection to PostgreSQL of its own
keepalive = 30
timeout = 60
