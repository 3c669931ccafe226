from django.db import models


class Effect(models.Model):
    """What a transactional step did. Deliberately without a unique key: what was done twice stands here twice."""

    path = models.CharField(
        max_length=200
    )  # of the program, the slot and the item; the same whichever run did it
    undo = models.BooleanField(default=False)
    attempt = models.PositiveIntegerField()

    class Meta:
        # The rows of one program are read by their path's beginning; Django's index for LIKE serves that.
        indexes = (
            models.Index(fields=["path"], name="chaos_effect_path", opclasses=["varchar_pattern_ops"]),
        )


class Counter(models.Model):
    """What the runs of one key read, and later write back plus one: it counts right only if they take turns."""

    key = models.CharField(max_length=50, primary_key=True)
    value = models.IntegerField(default=0)
