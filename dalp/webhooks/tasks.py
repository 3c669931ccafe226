"""The Celery tasks of webhooks. Beat asks every second; whoever wrote an event was the database, which rings for nobody."""

from celery import shared_task

from dalp.webhooks import courier, forgetting


@shared_task(name="webhooks.deliver", ignore_result=True)
def deliver() -> None:
    """Send what is due."""
    courier.deliver()


@shared_task(name="webhooks.forget", ignore_result=True)
def forget() -> None:
    """Delete old deliveries."""
    forgetting.forget()
