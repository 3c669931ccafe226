"""The settings of the workers under chaos: those of production, with a broker that soon delivers again."""

from dalp.logs import logging_config
from dalp.settings import *  # noqa: F403
from dalp.settings import CELERY_BROKER_TRANSPORT_OPTIONS, LOG_LEVEL

# What a dead worker had fetched comes back while the test still runs.
CELERY_BROKER_TRANSPORT_OPTIONS = {**CELERY_BROKER_TRANSPORT_OPTIONS, "visibility_timeout": 8}
# One line of JSON for each event, for the count of what happened.
LOGGING = logging_config(console=False, level=LOG_LEVEL)
LOGGING["loggers"]["celery.worker.strategy"] = {"level": "WARNING"}  # not each message that comes
