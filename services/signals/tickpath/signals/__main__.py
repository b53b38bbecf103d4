"""``python -m tickpath.signals``: the side process, which starts the hot one."""

import sys

from tickpath.common.service import main
from tickpath.signals.service import SignalsService

if __name__ == "__main__":
    sys.exit(main(SignalsService))
