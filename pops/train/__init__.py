"""Training a teacher with Stable-Baselines3. Import what you need from the modules below.

`config` (no torch): `TrainConfig`. `loop`: `train`, `TrainResult`. `view`: `print_result`.
"""
