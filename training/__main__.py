"""`python -m training` is the command `bevdistill`."""

import sys

from training.cli.commands import main

sys.exit(main())
