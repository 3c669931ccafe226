"""The web process: `gunicorn dalp.wsgi`."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dalp.settings")
application = get_wsgi_application()

# gunicorn runs no system checks; a web process with a known secret must not serve one request.
from dalp.checks import stop_if_unsafe  # noqa: E402

stop_if_unsafe()
