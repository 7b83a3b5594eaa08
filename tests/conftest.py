"""What every test has: it fails when it leaves tasks, sockets or processes behind."""

from __future__ import annotations

from tests.leaks import no_leaks, no_leaks_in_the_loop

__all__ = ["no_leaks", "no_leaks_in_the_loop"]
