"""What a worker of the local launcher finds imported: importing this module does it.

Nothing here may start a thread, since workers are forked from the process that imports it (pyarrow, for one, does).
"""

import os
from contextlib import suppress
from importlib import import_module

for _name in ("filelock", "lightning.pytorch", "torchmetrics", "replicata.run.execute", "replicata.run.runner"):
    import_module(_name)
for _name in os.environ.get("REPLICATA_PRELOAD", "").split():  # the sweep's method, model and data
    with suppress(Exception):  # the run that needs it will say what is wrong with it
        import_module(_name)
