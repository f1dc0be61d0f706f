"""`python -m posttrain.cli`, where the console script is not on the path."""

from __future__ import annotations

import sys

from posttrain.cli import main

sys.exit(main())
