"""`python -m training` is the command `bevdistill`."""

import sys

from training.cli.entry import main

sys.exit(main())
