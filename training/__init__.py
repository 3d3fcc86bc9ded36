"""Offline: data, teacher, distillation, evaluation, replay. Never installed on the vehicle."""

import bevdistill_ros as _bevdistill_ros  # noqa: F401 - it sets how OpenMP waits, before anything here loads torch
