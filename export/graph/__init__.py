"""Graphs of .tflite files: read, check, edit, trace, plan memory."""
