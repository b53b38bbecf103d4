"""``python -m tickpath.feed``: the side process, which starts the hot one."""

import sys

from tickpath.common.service import main
from tickpath.feed.service import FeedService

if __name__ == "__main__":
    sys.exit(main(FeedService))
