"""Offline: data, teacher, distillation, evaluation, replay. Never installed on the vehicle."""
