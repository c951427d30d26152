"""``python -m ppl_models``."""

import sys

from ppl_models.cli import main

sys.exit(main())
