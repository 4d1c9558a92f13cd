/* Generated. */
#include "sample.h"

const unsigned char
    sample_pixels[MODEL_INPUT_HEIGHT * MODEL_INPUT_WIDTH *
                  MODEL_INPUT_CHANNELS] = {
$SAMPLE_PIXELS
};

const unsigned char sample_ids[MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH] = {
$SAMPLE_IDS
};
