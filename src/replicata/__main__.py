"""``python -m replicata`` is the ``replicata`` command."""

import sys

from replicata.cli import main

sys.exit(main())
