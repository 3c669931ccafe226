"""Try the PIN of the HSM's token once more, after it was refused."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from keyguard import hsm, pins
from keyguard.errors import KeyguardError
from keyguard.management.key_command import KeyCommand
from keyguard.models import Key
from keyguard.uris import KeyUri


class Command(KeyCommand):
    """`manage.py try_hsm_pin`."""

    help = "Tries the PIN once, and lets every process log in again when it is right. Some wrong PINs lock a token."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            token = hsm.token()
            was_refused = pins.allow_pin(settings.KEYGUARD_HSM_TOKEN)
            name = token.log_in()
            strangers = self._strangers()
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        again = " It is tried again by every process from now on." if was_refused else ""
        self.stdout.write(f"The PIN of {name} is right.{again}")
        if strangers:
            self.stdout.write(
                f"{len(strangers)} key pairs in the token belong to no key here: {', '.join(strangers[:5])}"
            )

    def _strangers(self) -> list[str]:
        from keyguard.backends.pkcs11 import Pkcs11Backend

        known = set(Key.objects.filter(backend="pkcs11").values_list("backend_ref", flat=True))
        return sorted(str(KeyUri("pkcs11", one)) for one in Pkcs11Backend().references() - known)
