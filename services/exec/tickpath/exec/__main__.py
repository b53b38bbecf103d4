"""exec's side process: ``python -m tickpath.exec``."""

import sys

from tickpath.common.service import main
from tickpath.exec.service import ExecService

sys.exit(main(ExecService))
