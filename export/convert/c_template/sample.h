/* An image, and the class ids of its pixels as Python computed them. */
#ifndef SAMPLE_H_
#define SAMPLE_H_

#include "model.h"

extern const unsigned char
    sample_pixels[MODEL_INPUT_HEIGHT * MODEL_INPUT_WIDTH *
                  MODEL_INPUT_CHANNELS];
/* Computed with $KERNELS. */
extern const unsigned char
    sample_ids[MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH];

#endif /* SAMPLE_H_ */
