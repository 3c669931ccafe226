"""What commands have in common that hold keys or KEKs in the clear."""

from django.core.management.base import BaseCommand

from keyguard.hardening import harden


class KeyCommand(BaseCommand):
    """A command whose process leaves no core dump, and whose memory no other of its user reads."""

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from the command line. Whoever calls it from Python has a process of their own to look after."""
        harden()
        super().run_from_argv(argv)
