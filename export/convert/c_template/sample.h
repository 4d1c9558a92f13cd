/* An image, and the class of each pixel of it as Python computed it. */
#ifndef SAMPLE_H_
#define SAMPLE_H_

#include "model.h"

extern const unsigned char
    sample_pixels[MODEL_INPUT_HEIGHT * MODEL_INPUT_WIDTH *
                  MODEL_INPUT_CHANNELS];
/* By $KERNELS. */
extern const unsigned char
    sample_ids[MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH];

#endif /* SAMPLE_H_ */
