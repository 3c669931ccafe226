"""Lanes of keys whose custody gives the nonces and sends, and what is with such a custody."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("signer", "0003_protect_event_logs"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="transaction",
            name="signer_transaction_due",
        ),
        migrations.AddField(
            model_name="lane",
            name="in_custody",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="transaction",
            name="vain_looks",
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="raw",
            field=models.BinaryField(default=b""),
        ),
        migrations.AlterField(
            model_name="attempt",
            name="state",
            field=models.CharField(
                choices=[
                    ("SIGNED", "committed; not known to be in a pool"),
                    ("SENT", "accepted by a node, or sent by the custody"),
                    ("REJECTED", "refused for good; replaced by a no-op"),
                    ("VOID", "can never be executed: its nonce was used otherwise"),
                ],
                default="SIGNED",
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="incident",
            name="kind",
            field=models.CharField(
                choices=[
                    ("DEEP_REORG", "a reorganisation deeper than the confirmations"),
                    ("LANE_BLOCKED", "a lane is blocked"),
                    ("FOREIGN_NONCE", "another program signs with an address"),
                    ("FEE_CAPPED", "the market's fee has been above the ceiling for long"),
                    ("LOW_BALANCE", "an address runs out of money"),
                    ("CHAIN_UNREACHABLE", "no node of a chain can be used"),
                    ("WRONG_CHAIN", "an endpoint serves another chain than the one registered"),
                    ("NODE_ANOMALY", "a node said something that cannot be true"),
                    ("UNKNOWN_ERROR", "a node refuses in words that no rule knows"),
                    ("INDEX_FAILED", "a handler of events fails"),
                    ("CUSTODY_ALTERED", "a custody sent something else than it was asked"),
                ],
                max_length=30,
            ),
        ),
        migrations.AlterField(
            model_name="transaction",
            name="sub_state",
            field=models.CharField(
                blank=True,
                choices=[
                    ("", "-"),
                    ("LANE_FULL", "waits for room in the lane"),
                    ("LANE_BLOCKED", "the lane is blocked"),
                    ("LANE_PAUSED", "the lane is paused"),
                    ("INSUFFICIENT_FUNDS", "the address cannot pay for it"),
                    ("NODE_UNAVAILABLE", "the node does not answer"),
                    ("ESTIMATE_UNCLEAR", "the node's answer to the gas estimate is not understood"),
                    (
                        "AUTHORIZING",
                        "an authorisation of the address (EIP-7702) is under way, or its lane is busy",
                    ),
                    ("SIGNER_UNAVAILABLE", "the key cannot sign at the moment"),
                    ("FEE_CAPPED", "the market's fee is above the ceiling"),
                    ("POSSIBLY_SENT", "the node's answer was lost; the same bytes are sent again"),
                    ("NONCE_USED", "the node says the nonce is used; looking for the receipt"),
                    ("NONCE_FOREIGN", "a transaction that is not ours used its nonce"),
                    ("NODE_FULL", "the node's pool has no room"),
                    ("NODE_REFUSED", "a no-op takes its nonce, because the node refused it"),
                    ("REFUSED_AGAIN", "the node refuses what it took before; the same bytes are sent again"),
                    ("EXPIRING", "a no-op takes its nonce, because valid_until passed"),
                    ("CANCELLING", "a no-op takes its nonce, because it was cancelled"),
                    ("CANCEL_LOST", "the cancellation came too late: it was executed"),
                    ("REORGED", "its block was orphaned; sent again"),
                    ("HANDING_OVER", "committed; the custody is being asked"),
                    ("WITH_CUSTODY", "the custody works on it"),
                    ("AWAITING_APPROVAL", "the custody's own people must approve it"),
                    ("CUSTODY_SILENT", "the custody does not answer; it is looked up again"),
                    ("CUSTODY_SENT", "the custody says that it sent it; no node shows it yet"),
                    ("CALLING_OFF", "the custody is asked to call it off"),
                    (
                        "CUSTODY_FORGOT",
                        "the custody knew it and knows it no longer; it is not handed over again",
                    ),
                    ("CUSTODY_GAVE_UP", "the custody sent it and gave it up; it may still be executed"),
                    ("CUSTODY_ALTERED", "the custody sent something else than it was asked"),
                ],
                default="",
                max_length=20,
            ),
        ),
        migrations.AddIndex(
            model_name="transaction",
            index=models.Index(
                condition=models.Q(("state__in", ["SIGNING", "BROADCASTING"])),
                fields=["lane", "look_at"],
                name="signer_transaction_due",
            ),
        ),
    ]
