"""`python -m pops.cli`."""

import sys

from pops.cli import main

sys.exit(main())
