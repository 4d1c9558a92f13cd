"""DeepLab-style segmentation in JAX, from training to an int8 file."""

import os

# Read when JAX and TensorFlow are first imported. Their C++ side reports
# cached compilations as errors (what really fails also raises in Python), and
# TensorFlow announces oneDNN's kernels, which nothing in here uses.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
