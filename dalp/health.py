"""Whether this process lives (/healthz) and whether it can work (/readyz). Open to all, so they say no secrets."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from dalp import diagnosis


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process takes requests."""
    return JsonResponse({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 when everything this process needs is there, else 503 with what is missing."""
    findings = diagnosis.readiness()
    missing = [finding for finding in findings if not finding.ok]
    body = {
        "ready": not missing,
        "checks": {finding.name: "ok" if finding.ok else "missing" for finding in findings},
        "missing": [f"{finding.name}: {finding.detail}" for finding in missing],
    }
    return JsonResponse(body, status=503 if missing else 200)
