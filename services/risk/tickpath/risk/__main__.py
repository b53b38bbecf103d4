"""``python -m tickpath.risk``: the side process of risk, which starts the hot one."""

import sys

from tickpath.common.service import main
from tickpath.risk.service import RiskService

if __name__ == "__main__":
    sys.exit(main(RiskService))
