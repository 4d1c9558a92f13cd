/* Generated. */
#include "sample.h"

const unsigned char
    sample_pixels[MODEL_INPUT_HEIGHT * MODEL_INPUT_WIDTH * 3] = {
$SAMPLE_PIXELS
};

const unsigned char sample_ids[MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH] = {
$SAMPLE_IDS
};
