"""People before the console: with permissions, groups and a password."""

import re
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from keyguard.models import Key
from keyguard.policies.models import Policy, Question
from tests.integration.keyguard.policies import person

PASSWORD = "correct horse battery"


def someone(name: str, *groups: str, may: str = "") -> User:
    """Return a person of the console with a password. may: permissions, separated by spaces."""
    user = person(name, *groups)
    user.is_staff = True
    user.set_password(PASSWORD)
    user.save()
    user.user_permissions.set(
        Permission.objects.filter(codename__in=may.split(), content_type__app_label="keyguard")
    )
    return user


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def at(row: Policy | Question | Key, act: str = "change") -> str:
    if act == "change":
        return reverse(f"admin:keyguard_{row._meta.model_name}_change", args=[row.pk])
    return f"/admin/keyguard/{row._meta.model_name}/{row.pk}/{act}/"


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", response.content.decode())
