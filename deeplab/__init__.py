"""DeepLab-style segmentation in JAX, from training to int8 TFLite files."""

import os

# JAX and TensorFlow read these when they are first imported. Without them their
# C++ code logs cached compilations as errors (a failure that matters is raised
# in Python, too), and TensorFlow announces oneDNN kernels, which are not used.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
