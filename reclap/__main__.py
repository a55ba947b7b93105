"""``python -m reclap`` is the command line."""

import sys

from reclap.cli import main

sys.exit(main())
