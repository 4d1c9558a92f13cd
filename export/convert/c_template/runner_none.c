/* Replaces runner_tflm.cc in builds without TensorFlow Lite Micro. */
#include "runner.h"

model_input_t *runner_open(void) { return NULL; }

const model_output_t *runner_invoke(void) { return NULL; }
