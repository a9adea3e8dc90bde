"""python -m momos.cli"""

import sys

from momos.cli.main import main

sys.exit(main())
