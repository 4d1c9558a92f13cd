/* The network: its bytes, input, output and classes. Generated. */
#ifndef MODEL_H_
#define MODEL_H_

#include <stddef.h>
#include <stdint.h>

#define MODEL_BYTES $MODEL_BYTES
/* RAM of TensorFlow Lite Micro for activations and its own data. */
#define MODEL_ARENA_BYTES $ARENA_BYTES

/* real = (value - ZERO_POINT) * SCALE; floats have scale 1 and zero point 0. */
#define MODEL_INPUT_HEIGHT $INPUT_HEIGHT
#define MODEL_INPUT_WIDTH $INPUT_WIDTH
#define MODEL_INPUT_CHANNELS $INPUT_CHANNELS
#define MODEL_INPUT_IS_FLOAT $INPUT_IS_FLOAT
#define MODEL_INPUT_SCALE $INPUT_SCALE
#define MODEL_INPUT_ZERO_POINT $INPUT_ZERO_POINT
#define MODEL_INPUT_MIN $INPUT_MIN
#define MODEL_INPUT_MAX $INPUT_MAX
#define MODEL_OUTPUT_HEIGHT $OUTPUT_HEIGHT
#define MODEL_OUTPUT_WIDTH $OUTPUT_WIDTH
#define MODEL_OUTPUT_CHANNELS $OUTPUT_CHANNELS
#define MODEL_OUTPUT_SCALE $OUTPUT_SCALE
#define MODEL_OUTPUT_ZERO_POINT $OUTPUT_ZERO_POINT
/* 1: the output is class ids; 0: it is a score per class. */
#define MODEL_OUTPUT_IS_IDS $OUTPUT_IS_IDS
#define MODEL_CLASSES $CLASSES
#define MODEL_CLASS_NAMES { $CLASS_NAMES }

/* Input: (pixel - mean) / std per channel, pixels in 0..255. */
#define MODEL_MEAN { $MEAN }
#define MODEL_STD { $STD }

typedef $INPUT_TYPE model_input_t;
typedef $OUTPUT_TYPE model_output_t;

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char model_data[MODEL_BYTES];

#ifdef __cplusplus
}
#endif

#endif /* MODEL_H_ */
