"""The exchange's side process: ``python -m tickpath.sim``."""

import sys

from tickpath.common.service import main
from tickpath.sim.service import SimService

if __name__ == "__main__":
    sys.exit(main(SimService))
