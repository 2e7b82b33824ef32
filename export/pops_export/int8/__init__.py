"""Integer networks: reading them from an int8 .tflite file and computing them exactly."""
