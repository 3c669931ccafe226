"""Settings, all from the environment. `X_FILE` names a file to read any value `X` from (for secrets).

The names are documented in docs/reference/settings.md; dalp/checks.py stops a production start that lacks a secret.
"""

from pathlib import Path
from typing import Any

import environ
from celery.schedules import crontab
from environ.fileaware_mapping import FileAwareMapping

from dalp.console import site
from dalp.logs import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent


class SecretFiles(FileAwareMapping):  # type: ignore[misc]
    """The environment and the files it names, without the newline that editors leave at a file's end."""

    def __getitem__(self, name: str) -> str:
        """Return the value of `name`, or the text of the file that `name`_FILE names."""
        return str(super().__getitem__(name)).rstrip("\n")


class Environment(environ.Env):  # type: ignore[misc]
    """Reads settings; a secret may come from a file."""

    ENVIRON = SecretFiles()


env = Environment()

# --- Modes and secrets ------------------------------------------------------------------------------------

# Production is the default: forgetting a variable must not open the door.
DEBUG = env.bool("DEBUG", default=False)

# Known to everybody who can read this file; dalp/checks.py refuses both unless DEBUG is on.
DEVELOPMENT_SECRET_KEY = "development-only-secret-key-that-everybody-knows"  # noqa: S105
DEVELOPMENT_KEK = "ZGV2ZWxvcG1lbnQtb25seS1rZWstMzItYnl0ZXMhISE="

SECRET_KEY = env.str("SECRET_KEY", default="") or DEVELOPMENT_SECRET_KEY
# Of a key that was replaced: what it encrypted (secrets of webhooks) or signed (sessions) can still be read.
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", default=[])
KEYGUARD_KEK = env.str("KEYGUARD_KEK", default="") or DEVELOPMENT_KEK
# What was stored under an earlier one can still be opened, until rotate_kek has moved it.
KEYGUARD_KEK_FALLBACKS: list[str] = env.list("KEYGUARD_KEK_FALLBACKS", default=[])
# A web process stores what is to be sent, and signs nothing: without a KEK in its memory nobody finds one there.
KEYGUARD_SIGNS = env.bool("KEYGUARD_SIGNS", default=True)
# What entries of keyguard's audit trail are authenticated with, 32 bytes in hex; without it, what SECRET_KEY gives.
KEYGUARD_AUDIT_KEY = env.str("KEYGUARD_AUDIT_KEY", default="")
KEYGUARD_AUDIT_KEY_FALLBACKS: list[str] = env.list("KEYGUARD_AUDIT_KEY_FALLBACKS", default=[])
# The alias of a key that signs the heads of the trail, once a minute; one in an HSM, at best.
KEYGUARD_AUDIT_SIGNER = env.str("KEYGUARD_AUDIT_SIGNER", default="")
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# Switches the epoch check off, so that a test can show that the fault suite notices. Never outside tests.
DALP_TEST_DISABLE_FENCE = env.bool("DALP_TEST_DISABLE_FENCE", default=False)

# --- Where keys and their KEKs live: docs/deploy/ ---------------------------------------------------------

KEYGUARD_KEK_PROVIDER = env.str("KEYGUARD_KEK_PROVIDER", default="env")
KEYGUARD_DEK_CACHE_SECONDS = env.float("KEYGUARD_DEK_CACHE_SECONDS", default=30.0)
KEYGUARD_DEK_CACHE_KEYS = env.int("KEYGUARD_DEK_CACHE_KEYS", default=1000)
KEYGUARD_HSM_MODULE = env.str("KEYGUARD_HSM_MODULE", default="")
KEYGUARD_HSM_TOKEN = env.str("KEYGUARD_HSM_TOKEN", default="")
KEYGUARD_HSM_PIN = env.str("KEYGUARD_HSM_PIN", default="")
KEYGUARD_HSM_SESSIONS = env.int("KEYGUARD_HSM_SESSIONS", default=4)
KEYGUARD_VAULT_URL = env.str("KEYGUARD_VAULT_URL", default="")
KEYGUARD_VAULT_NAMESPACE = env.str("KEYGUARD_VAULT_NAMESPACE", default="")
KEYGUARD_VAULT_CACERT = env.str("KEYGUARD_VAULT_CACERT", default="")
KEYGUARD_VAULT_TIMEOUT_SECONDS = env.float("KEYGUARD_VAULT_TIMEOUT_SECONDS", default=5.0)
KEYGUARD_VAULT_ROLE_ID = env.str("KEYGUARD_VAULT_ROLE_ID", default="")
KEYGUARD_VAULT_SECRET_ID = env.str("KEYGUARD_VAULT_SECRET_ID", default="")
KEYGUARD_VAULT_APPROLE_MOUNT = env.str("KEYGUARD_VAULT_APPROLE_MOUNT", default="approle")
KEYGUARD_VAULT_KV_MOUNT = env.str("KEYGUARD_VAULT_KV_MOUNT", default="secret")
KEYGUARD_VAULT_KV_PREFIX = env.str("KEYGUARD_VAULT_KV_PREFIX", default="dalp/keys")
KEYGUARD_VAULT_TRANSIT_MOUNT = env.str("KEYGUARD_VAULT_TRANSIT_MOUNT", default="transit")
KEYGUARD_VAULT_TRANSIT_PREFIX = env.str("KEYGUARD_VAULT_TRANSIT_PREFIX", default="dalp-kek")
if not KEYGUARD_SIGNS:
    KEYGUARD_KEK = KEYGUARD_HSM_PIN = KEYGUARD_VAULT_SECRET_ID = ""
    KEYGUARD_KEK_FALLBACKS = []

# --- Applications -----------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    # Simple: the admin's pages are loaded with the addresses (dalp/urls.py), so not by workers, which show none.
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_results",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "ninja",
    "workflows",
    "keyguard",
    "signer",
    "dalp",
    "dalp.assets",
    "dalp.webhooks",
    *env.list("DALP_APPS", default=[]),
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "dalp.logs.CorrelationMiddleware",
    "dalp.api.problems.ProblemMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "dalp.urls"
WSGI_APPLICATION = "dalp.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Database ---------------------------------------------------------------------------------------------


def database_config() -> dict[str, Any]:
    """Return the default database with the options that the engine's guarantees rest on."""
    config: dict[str, Any] = env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'dalp.sqlite3'}")
    options = config.setdefault("OPTIONS", {})
    if "sqlite" in config["ENGINE"]:
        # IMMEDIATE: a transaction that reads first and writes later would fail with "database is locked" at once,
        # without waiting. NORMAL survives the death of any process but not a power cut; FULL starves writers. That is
        # one reason why SQLite is for development.
        options.setdefault("transaction_mode", "IMMEDIATE")
        options.setdefault("timeout", 20)
        options.setdefault("init_command", "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
    elif "postgresql" in config["ENGINE"]:
        config["CONN_MAX_AGE"] = 60
        config["CONN_HEALTH_CHECKS"] = True
        options.setdefault("connect_timeout", 5)
        # A frozen worker must not hold its row locks for ever: the server ends its transaction.
        options.setdefault(
            "options",
            "-c idle_in_transaction_session_timeout=20s -c lock_timeout=5s -c statement_timeout=30s",
        )
    return config


DATABASES = {"default": database_config()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Redis and Celery -------------------------------------------------------------------------------------

REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")

CELERY_BROKER_URL = REDIS_URL
# A message is acknowledged when its work is done, and fetched one at a time: a killed worker holds back little.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 300,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "client_name": "dalp",
    # Of a publisher: one try. A worker reconnects by CELERY_BROKER_CONNECTION_MAX_RETRIES.
    "max_retries": 0,
}
# A message only wakes; the sweep finds what a lost one should have woken. So a caller never waits for Redis.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# No time limit for all tasks: a run's steps have their own, which may be longer than any of these would be.
CELERY_TASK_ANNOTATIONS = {
    name: {"soft_time_limit": 60, "time_limit": 90}
    for name in (
        "workflows.sweep",
        "signer.drain",
        "signer.watch",
        "signer.probe",
        "signer.index",
        "signer.sweep",
        "signer.keep_keys",
        "signer.money",
        "signer.check_money",
        "signer.nonces",
        "signer.check_nonces",
        "dalp.diagnose",
        "dalp.mail_incident",
        "webhooks.deliver",
        "webhooks.forget",
    )
}
CELERY_WORKER_MAX_TASKS_PER_CHILD = 2000
CELERY_WORKER_ETA_TASK_LIMIT = 1000
CELERY_TIMEZONE = "UTC"
# Celery closes the database connection around every task; the tasks of one worker may share it (see dalp/celery.py).
CELERY_DB_REUSE_MAX = 1_000_000_000
# Results are kept for operational tasks only (they say ignore_result=False); storing one costs three tasks' time.
CELERY_RESULT_BACKEND = "django-db"
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_EXTENDED = True
CELERY_TASK_DEFAULT_QUEUE = "ops"
# What belongs to a chain goes to that chain's queue.
CELERY_TASK_ROUTES = (
    "signer.routing.route",
    {
        "workflows.*": {"queue": "workflows"},
        "signer.*": {"queue": "signer"},
        "dalp.*": {"queue": "ops"},
        "webhooks.*": {"queue": "webhooks"},
    },
)
# In memory: every entry is an interval or a crontab, so beat needs no file of its own and any number may run.
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"
CELERY_BEAT_SCHEDULE = {
    # Expiring: sweeps that pile up while no worker runs would only repeat one another.
    "workflows-sweep": {"task": "workflows.sweep", "schedule": 1.0, "options": {"expires": 5}},
    "signer-sweep": {"task": "signer.sweep", "schedule": 1.0, "options": {"expires": 5}},
    "signer-keep-keys": {"task": "signer.keep_keys", "schedule": 10.0, "options": {"expires": 8}},
    "signer-money": {"task": "signer.money", "schedule": 30.0, "options": {"expires": 25}},
    "signer-nonces": {"task": "signer.nonces", "schedule": 60.0, "options": {"expires": 55}},
    "webhooks-deliver": {"task": "webhooks.deliver", "schedule": 1.0, "options": {"expires": 5}},
    "webhooks-forget": {
        "task": "webhooks.forget",
        "schedule": crontab(minute=37),
        "options": {"expires": 1800},
    },
    "diagnose": {"task": "dalp.diagnose", "schedule": crontab(minute=7), "options": {"expires": 1800}},
}

# --- Our own knobs ----------------------------------------------------------------------------------------


def knobs(group: str, **defaults: float) -> dict[str, Any]:
    """Return `defaults`, each replaced by DALP_<GROUP>_<NAME> where the environment has it; whole numbers as int."""
    values = {
        name: env.float(f"DALP_{group}_{name.upper()}", default=default) for name, default in defaults.items()
    }
    return {name: int(value) if value == int(value) else value for name, value in values.items()}


WORKFLOWS = knobs(
    "WORKFLOWS",
    lease_seconds=30,
    slice_seconds=20,
    slice_steps=50,
    sweep_grace_seconds=2,
    max_recoveries=10,
    step_timeout_seconds=300,
    kill_after_seconds=30,
    output_bytes_inline=32_768,
    output_bytes_max=5_000_000,
    stranded_seconds=120,
    state_bytes_max=1_000_000,
    blocked_key_seconds=900,
    seal_seconds=60,
)
# Where finished runs go when they are past their retention; without it they stay.
DALP_ARCHIVE_DIR = env.str("DALP_ARCHIVE_DIR", default="")
SIGNER = knobs(
    "SIGNER",
    lease_seconds=30,
    resend_seconds=60,
    bump_after_seconds=30,
    rpc_timeout_seconds=8,
    hedge_seconds=1,
    pause_seconds=60,
    identity_seconds=30,
    unreachable_seconds=60,
    watch_slice_seconds=3,
    fee_capped_alert_seconds=600,
    recheck_seconds=300,
    index_slice_seconds=3,
    low_runway_hours=6,
)
KEYGUARD = knobs(
    "KEYGUARD", approval_seconds=3600, approved_seconds=86_400, abandoned_seconds=30, head_seconds=60
)
# Whose members must approve a change of policy, and how many of them; without a group nobody is asked.
KEYGUARD_POLICY_GROUP = env.str("KEYGUARD_POLICY_GROUP", default="")
KEYGUARD_POLICY_APPROVALS = env.int("KEYGUARD_POLICY_APPROVALS", default=1)
# ... and the same of what lets a key sign again, or longer.
KEYGUARD_OPERATIONS_GROUP = env.str("KEYGUARD_OPERATIONS_GROUP", default="")
KEYGUARD_OPERATIONS_APPROVALS = env.int("KEYGUARD_OPERATIONS_APPROVALS", default=1)
# How private keys may come in: wrapped for one import, or also in the clear on standard input.
KEYGUARD_IMPORT = env.str("KEYGUARD_IMPORT", default="plain")
# Whether dangerous acts in the console are refused to whoever has no second factor ("required"), or not ("offered").
CONSOLE_SECOND_FACTOR = env.str("CONSOLE_SECOND_FACTOR", default="offered")
# What authenticators show above the codes.
OTP_TOTP_ISSUER = "DALP"
# Custodies: each is off until one of its secrets is set; then keyguard's checks want the rest. docs/deploy has a page each.
FIREBLOCKS_API_KEY = env.str("FIREBLOCKS_API_KEY", default="")
FIREBLOCKS_SECRET_KEY = env.str("FIREBLOCKS_SECRET_KEY", default="", multiline=True)
FIREBLOCKS_BASE_URL = env.str("FIREBLOCKS_BASE_URL", default="https://api.fireblocks.io/v1")
FIREBLOCKS_ASSETS: list[str] = env.list("FIREBLOCKS_ASSETS", default=[])
FIREBLOCKS_ALLOW_RAW: list[str] = env.list("FIREBLOCKS_ALLOW_RAW", default=[])
FIREBLOCKS_REQUESTS_PER_SECOND = env.float("FIREBLOCKS_REQUESTS_PER_SECOND", default=5.0)
FIREBLOCKS_WEBHOOK_JWKS_URL = env.str("FIREBLOCKS_WEBHOOK_JWKS_URL", default="")
DFNS_AUTH_TOKEN = env.str("DFNS_AUTH_TOKEN", default="")
DFNS_CREDENTIAL_ID = env.str("DFNS_CREDENTIAL_ID", default="")
DFNS_CREDENTIAL_KEY = env.str("DFNS_CREDENTIAL_KEY", default="", multiline=True)
DFNS_BASE_URL = env.str("DFNS_BASE_URL", default="https://api.dfns.io")
DFNS_NETWORKS: list[str] = env.list("DFNS_NETWORKS", default=[])
DFNS_ALLOW_RAW: list[str] = env.list("DFNS_ALLOW_RAW", default=[])
DFNS_REQUESTS_PER_SECOND = env.float("DFNS_REQUESTS_PER_SECOND", default=5.0)
DFNS_WEBHOOK_SECRET = env.str("DFNS_WEBHOOK_SECRET", default="")
if not KEYGUARD_SIGNS:  # what only tells whether a webhook is the custody's stays
    FIREBLOCKS_API_KEY = FIREBLOCKS_SECRET_KEY = ""
    DFNS_AUTH_TOKEN = DFNS_CREDENTIAL_ID = DFNS_CREDENTIAL_KEY = ""
# Whether webhooks may go to this machine and its neighbours, and without TLS. On one's own machine they have to.
WEBHOOK_ALLOW_PRIVATE = env.bool("WEBHOOK_ALLOW_PRIVATE", default=DEBUG)
IDENTITY_PROVIDER_URL = env.str("IDENTITY_PROVIDER_URL", default="")

# --- Mail, logs, errors -----------------------------------------------------------------------------------

vars().update(env.email_url("EMAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="dalp@localhost")
SERVER_EMAIL = env.str("SERVER_EMAIL", default=DEFAULT_FROM_EMAIL)
EMAIL_SUBJECT_PREFIX = "[DALP] "
ADMINS = [("operations", address) for address in env.list("ADMINS", default=[])]
SENTRY_DSN = env.str("SENTRY_DSN", default="")
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOGGING = logging_config(console=DEBUG, level=LOG_LEVEL)

# --- Web --------------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = ["dalp.formats"]
STATIC_URL = "static/"
# Served straight from the packages: no collectstatic to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = (
    2 * 1024 * 1024
)  # the API takes as much for transactions alone, which may carry blobs
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
# Whether people reach this over TLS. Off only on one's own machine.
HTTPS = env.bool("HTTPS", default=not DEBUG)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 8 * 3600
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
NINJA_NUM_PROXIES = 0
UNFOLD = site.UNFOLD
