"""What a transaction carries besides its own columns: blobs, and authorisations of accounts."""

from django.db import models

from signer.models.transactions import Lane, Transaction


class Blob(models.Model):
    """131072 bytes that a blob transaction carries (EIP-4844). Not a column there: every list would read them."""

    transaction = models.ForeignKey(Transaction, on_delete=models.PROTECT, related_name="blobs")
    position = models.PositiveSmallIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ("transaction", "position")
        constraints = (
            models.UniqueConstraint(
                fields=["transaction", "position"], name="signer_blob_transaction_position_unique"
            ),
        )

    def __str__(self) -> str:
        return f"blob {self.position} of {self.transaction_id}"


class Authorization(models.Model):
    """That an account shall be handed to a contract by a transaction (EIP-7702).

    It uses a nonce of that account, so the account's lane gives out none while it is under way.
    """

    transaction = models.ForeignKey(Transaction, on_delete=models.PROTECT, related_name="authorizations")
    position = models.PositiveSmallIntegerField()
    lane = models.ForeignKey(Lane, on_delete=models.PROTECT, related_name="authorizations")  # the authority's
    delegate = models.CharField(max_length=42)
    nonce = models.BigIntegerField(null=True, blank=True)  # of the authority, once it is signed and committed

    class Meta:
        ordering = ("transaction", "position")
        constraints = (
            models.UniqueConstraint(
                fields=["transaction", "position"], name="signer_authorization_transaction_position_unique"
            ),
            # Of two by one account the second would need another nonce, and the first would be in vain.
            models.UniqueConstraint(
                fields=["transaction", "lane"], name="signer_authorization_transaction_lane_unique"
            ),
        )

    def __str__(self) -> str:
        return f"{self.lane} to {self.delegate}"
