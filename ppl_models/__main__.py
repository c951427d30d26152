"""``python -m ppl_models``."""

import sys

from ppl_models.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
