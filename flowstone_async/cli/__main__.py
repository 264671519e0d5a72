"""`python -m flowstone_async.cli`: the same as `flowstone`."""

import sys

from flowstone_async.cli import main

sys.exit(main())
