"""`python -m relic_app` is the `relic` command."""

import sys

from relic_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
