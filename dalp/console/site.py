"""The look of the console: title, colours by environment, and the sidebar in the operator's words."""

from typing import Any

from django.conf import settings
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

# Group -> (title, icon, admin view). A page that an installation doesn't have is left out.
PAGES: dict[str, list[tuple[str, str, str]]] = {
    "Operations": [
        ("Overview", "monitor_heart", "admin:index"),
        ("Dead letters", "crisis_alert", "admin:workflows_deadletter_changelist"),
        ("Runs", "account_tree", "admin:workflows_run_changelist"),
        ("Schedules", "schedule", "admin:workflows_schedule_changelist"),
        ("Ticks", "update", "admin:workflows_tick_changelist"),
        ("Approvals", "how_to_vote", "admin:workflows_approval_changelist"),
        ("Virtual objects", "lock", "admin:workflows_virtualobjectstate_changelist"),
        ("Limits and pauses", "pause_circle", "admin:workflows_limit_changelist"),
        ("Bulk jobs", "checklist", "admin:workflows_bulkjob_changelist"),
        ("Assets", "token", "admin:assets_asset_changelist"),
        ("Investors", "groups", "admin:assets_investor_changelist"),
        ("Platforms", "foundation", "admin:assets_platform_changelist"),
    ],
    "Record": [
        ("Acts", "history_edu", "admin:workflows_act_changelist"),
        ("Definitions", "schema", "admin:workflows_definitionrecord_changelist"),
        ("Seals", "verified", "admin:workflows_seal_changelist"),
        ("Archived runs", "inventory_2", "admin:workflows_archivedrun_changelist"),
    ],
    "Transactions": [
        ("Transactions", "swap_horiz", "admin:signer_transaction_changelist"),
        ("Attempts", "send", "admin:signer_attempt_changelist"),
        ("Incidents", "notification_important", "admin:signer_incident_changelist"),
        ("Lanes", "low_priority", "admin:signer_lane_changelist"),
        ("Balances", "account_balance_wallet", "admin:signer_lanemoney_changelist"),
        ("Top-ups", "savings", "admin:signer_topup_changelist"),
        ("Chains", "link", "admin:signer_chain_changelist"),
        ("Blocks", "view_in_ar", "admin:signer_block_changelist"),
        ("Event indexes", "sync", "admin:signer_eventindex_changelist"),
        ("Indexed blocks", "deployed_code_history", "admin:signer_indexedblock_changelist"),
        ("Watched contracts", "visibility", "admin:signer_watchedcontract_changelist"),
        ("Event logs", "receipt_long", "admin:signer_eventlog_changelist"),
        ("Holdings", "pie_chart", "admin:signer_holding_changelist"),
        ("Unknown texts", "help_center", "admin:signer_unknowntext_changelist"),
        ("Error rules", "rule", "admin:signer_errorrule_changelist"),
        ("Acts on lanes", "history_edu", "admin:signer_act_changelist"),
    ],
    "Keys": [
        ("Keys", "key", "admin:keyguard_key_changelist"),
        ("Questions", "contact_support", "admin:keyguard_question_changelist"),
        ("Policies", "gavel", "admin:keyguard_policy_changelist"),
        ("Limits of the policy", "speed", "admin:keyguard_purse_changelist"),
        ("Signing records", "signature", "admin:keyguard_signingrecord_changelist"),
        ("Hand-overs to custodies", "handshake", "admin:keyguard_handover_changelist"),
        ("Seals on keys", "lock", "admin:keyguard_sealing_changelist"),
        ("Audit trail", "fingerprint", "admin:keyguard_auditentry_changelist"),
        ("Heads of the trail", "verified_user", "admin:keyguard_audithead_changelist"),
        ("Key-encryption keys", "enhanced_encryption", "admin:keyguard_kek_changelist"),
        ("HSM tokens", "memory", "admin:keyguard_hsmtoken_changelist"),
        ("Allowed delegates", "supervisor_account", "admin:keyguard_alloweddelegate_changelist"),
    ],
    "Platform": [
        ("API tokens", "api", "admin:dalp_apitoken_changelist"),
        ("Webhooks", "webhook", "admin:webhooks_webhook_changelist"),
        ("Webhook deliveries", "outbox", "admin:webhooks_delivery_changelist"),
        ("Idempotency records", "filter_1", "admin:dalp_idempotencyrecord_changelist"),
        ("Operational task results", "task_alt", "admin:django_celery_results_taskresult_changelist"),
        ("People", "person", "admin:auth_user_changelist"),
        ("Groups", "shield_person", "admin:auth_group_changelist"),
        ("Your second factor", "phonelink_lock", "second_factor"),
    ],
}


def item(title: str, icon: str, view: str) -> dict[str, Any] | None:
    """Return one line of the sidebar, None when there is no such page."""
    try:
        line: dict[str, Any] = {"title": title, "icon": icon, "link": reverse(view)}
    except NoReverseMatch:
        return None
    if view == "admin:workflows_deadletter_changelist":
        # Only what needs a decision: the list opens on the open ones.
        line |= {"link": f"{line['link']}?state__exact=OPEN"}
        line |= counted(open_dead_letters())
    if view == "admin:signer_incident_changelist":
        line |= counted(open_incidents())
    if view == "admin:keyguard_question_changelist":
        line |= counted(open_questions())
    return line


def counted(count: int) -> dict[str, Any]:
    """Return a red number for a line of the sidebar, nothing for none."""
    return {"badge": count, "badge_variant": "danger", "badge_style": "solid"} if count else {}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar."""
    groups = []
    for title, pages in PAGES.items():
        items = [line for page in pages if (line := item(*page))]
        groups.append({"title": title, "separator": True, "items": items})
    return groups


def open_dead_letters() -> int:
    """Return the number for the sidebar's badge."""
    from workflows.models import DeadLetter

    return DeadLetter.objects.filter(state="OPEN").count()


def open_incidents() -> int:
    """Return the number for the sidebar's badge."""
    from signer.models import Incident

    return Incident.objects.filter(closed_at__isnull=True).count()


def open_questions() -> int:
    """Return the number for the sidebar's badge: those whose time is not over."""
    from keyguard.policies.models import Question

    return Question.objects.filter(state="OPEN", expires_at__gt=Now()).count()


def environment(request: HttpRequest) -> list[str]:
    """Return the label beside the title: nobody should mistake production for a demo, and every time is in this zone."""
    name, colour = ("Development", "info") if settings.DEBUG else ("Production", "danger")
    return [f"{name}, {settings.TIME_ZONE}", colour]


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "DALP",
    "SITE_HEADER": "DALP",
    "SITE_SUBHEADER": "Digital-asset operations",
    "SITE_SYMBOL": "deployed_code",
    "SITE_URL": "/api/v1/docs",
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": False,  # of changes made in the admin; nothing that matters is changed there
    "ENVIRONMENT": "dalp.console.site.environment",
    "DASHBOARD_CALLBACK": "dalp.console.overview.overview",
    "COMMAND": {"search_models": True},
    "LOGIN": {"form": "dalp.console.login.LoginForm"},
    "SIDEBAR": {
        "show_search": False,
        "command_search": True,
        "show_all_applications": False,
        "navigation": "dalp.console.site.navigation",
    },
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        }
    },
}
