"""MLflow: a view of what the run folders hold, never their source.

Live, `run` hands each epoch to a logger in another process. Runs that were not recorded live are
added by `rebuild` from the run folders. No result depends on this package.
"""

from momos.tracking.live import Log, run, shared
from momos.tracking.record import Record, flat_numbers, output_hash
from momos.tracking.store import rebuild, uri

__all__ = ["Log", "Record", "flat_numbers", "output_hash", "rebuild", "run", "shared", "uri"]
