"""What custodies call when something of ours has changed there. They are believed in nothing: somebody looks.

A body that the custody did not sign is refused; one that it did sign is answered with 200, whatever it is about, for
the custody would repeat it, and give these addresses up in the end.
"""

import structlog
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from keyguard import HintRefusedError, custody_hint
from signer.custody import hinting

log = structlog.get_logger()

MAX_BYTES = 256 * 1024


@csrf_exempt
@require_POST
def fireblocks(request: HttpRequest) -> HttpResponse:
    """Take a webhook of Fireblocks."""
    return _taken(request, "fireblocks")


@csrf_exempt
@require_POST
def dfns(request: HttpRequest) -> HttpResponse:
    """Take a webhook of DFNS."""
    return _taken(request, "dfns")


def _taken(request: HttpRequest, custody: str) -> HttpResponse:
    # Before it is read.
    length = request.headers.get("Content-Length") or "0"
    if not length.isascii() or not length.isdigit() or int(length) > MAX_BYTES:
        return HttpResponse(status=413)
    try:
        external_id = custody_hint(custody, request.headers, request.body)
    except HintRefusedError as error:
        log.warning("custody_hint_refused", custody=custody, text=error.message)
        return HttpResponse(status=401)
    if external_id:
        log.info("custody_hint", custody=custody, known=hinting.look_at(external_id))
    return HttpResponse(status=200)
