"""What runs inside `policy.pyz` on the device: self-test, bench and serve.

Python 3.9 and the standard library alone; numpy, ONNX Runtime and TFLite are
used where the device has them. Nothing here imports pops or pops_deploy, so
that the same files work in the bundle, where the package is called `pops_pyz`.
"""
