/* Runs the network. Implemented by runner_tflm.cc or runner_none.c. */
#ifndef RUNNER_H_
#define RUNNER_H_

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Returns the input buffer to fill, NULL if the network cannot be loaded. */
model_input_t *runner_open(void);

/* Runs the network and returns the output, NULL on failure. */
const model_output_t *runner_invoke(void);

#ifdef __cplusplus
}
#endif

#endif /* RUNNER_H_ */
