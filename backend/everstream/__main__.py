"""`python -m everstream` is `everstream`."""

from __future__ import annotations

import sys

from everstream.cli import main

sys.exit(main())
