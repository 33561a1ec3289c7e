"""`python -m softnce_ext` is `softnce`."""

import sys

from .cli.main import main

sys.exit(main())
