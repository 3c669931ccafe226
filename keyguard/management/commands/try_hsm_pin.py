"""Try the PIN of the HSM's token once more, after it was refused."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from keyguard import hsm, pins, sealing
from keyguard.backend_errors import HsmPinError
from keyguard.errors import KeyguardError
from keyguard.management.asking import say_asked, who
from keyguard.management.key_command import KeyCommand
from keyguard.models import Key
from keyguard.policies.models import Question
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
            question = self._lifted()
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        again = " It is tried again by every process from now on." if was_refused else ""
        self.stdout.write(f"The PIN of {name} is right.{again}")
        if question is not None:
            say_asked(self.stdout, question)
        if strangers:
            self.stdout.write(
                f"{len(strangers)} key pairs in the token belong to no key here: {', '.join(strangers[:5])}"
            )

    def _lifted(self) -> Question | None:
        """Lift the seal that the refusal has set; or return the question that comes first."""
        seal = sealing.open_sealings().filter(backend=pins.BACKEND, code=HsmPinError.code).first()
        return None if seal is None else sealing.unseal(seal, who(), "the token took the PIN: try_hsm_pin")

    def _strangers(self) -> list[str]:
        from keyguard.backends.pkcs11 import Pkcs11Backend

        known = set(Key.objects.filter(backend="pkcs11").values_list("backend_ref", flat=True))
        return sorted(str(KeyUri("pkcs11", one)) for one in Pkcs11Backend().references() - known)
