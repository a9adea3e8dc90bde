"""What `make repro` and a DVC that takes one command after the other (quick_dvc.py) say.

An order is a line of standard input: a JSON list of the environment and of DVC's arguments. Its
last line of output says how it ended. quick_dvc.py imports DVC, which takes a second; whoever gives
orders need not.
"""

import re

ORDERS = "--orders"  # argument of quick_dvc.py: orders come by standard input
ENDED = "end of order: "  # what the last line of each order begins with; its exit code follows
END = re.compile(rf"^{ENDED}(-?\d+)$")
# The arguments, with stages behind them, that quick_dvc.py runs in a quicker way.
REPRODUCE = ["--wait-for-lock", "repro", "--keep-going", "--single-item"]
