"""``python -m ppl_models``."""

import sys

from ppl_models.cli import main

if __name__ == "__main__":
    sys.exit(main())
