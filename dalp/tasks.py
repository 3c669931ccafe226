"""Operational tasks. Their results are kept by django-celery-results, for people to look at in the admin."""

from typing import Any
from uuid import UUID

from celery import shared_task

from dalp import alerts, diagnosis
from dalp.logs import get_logger

log = get_logger(__name__)


@shared_task(name="dalp.diagnose", ignore_result=False)
def diagnose() -> list[dict[str, Any]]:
    """Run the doctor's checks, log each fault, and keep the findings."""
    findings = diagnosis.diagnose()
    for finding in findings:
        if not finding.ok:
            log.error("installation fault", check=finding.name, detail=finding.detail, remedy=finding.remedy)
    return [finding.as_dict() for finding in findings]


@shared_task(name="dalp.mail_incident")
def mail_incident(incident_id: str) -> None:
    """Send the mail about an incident of the signer, if it is still open."""
    alerts.mail_about_incident(UUID(incident_id))
