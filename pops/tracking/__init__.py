"""Where a run is and what it measured: metrics.jsonl, TensorBoard events, a live view.

A `Tracker` is handed to the pipeline, which tells it what happens; what a user
sees of that depends on the mode alone. Nothing here changes a result.
"""

from pops.tracking.tracker import Mode, Tracker, choose_mode

__all__ = ["Mode", "Tracker", "choose_mode"]
