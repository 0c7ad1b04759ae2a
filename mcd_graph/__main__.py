"""``python -m mcd_graph`` is the command ``mcd``."""

import sys

from mcd_graph.cli import main

sys.exit(main())
