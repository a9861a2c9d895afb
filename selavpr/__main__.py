"""``python -m selavpr``."""

from selavpr.cli import main

raise SystemExit(main())
