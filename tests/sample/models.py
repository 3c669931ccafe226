from django.db import models


class Effect(models.Model):
    """One execution of a step. Deliberately without a unique key: what was done twice stands here twice."""

    key = models.CharField(max_length=200)
    attempt = models.PositiveIntegerField()
