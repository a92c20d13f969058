"""See `lethe.attacks.run.examine`."""

import sys

from lethe.attacks.run.examine import main

main(*sys.argv[1:])
