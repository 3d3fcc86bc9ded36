"""`python -m training` is the command `bevdistill`."""

import sys

from training.cli import main

sys.exit(main())
