/* Segments an image and counts the pixels of each class.
 *
 *     segment             segments the sample; exits with 0 if all pixels have
 *                         the class that Python computed
 *     segment IMAGE.raw   segments raw bytes [height, width, channels] of the
 *                         network's input size (RGB)
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "runner.h"
#include "sample.h"

#define PIXELS (MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH)
#define INPUT_BYTES \
  (MODEL_INPUT_HEIGHT * MODEL_INPUT_WIDTH * MODEL_INPUT_CHANNELS)

static const char *const class_names[MODEL_CLASSES] = MODEL_CLASS_NAMES;
static unsigned char image[INPUT_BYTES];
static unsigned char ids[PIXELS];

/* Converts an image in 0..255 to the input of the network. */
static void quantize(const unsigned char *pixels, model_input_t *input) {
  const float mean[MODEL_INPUT_CHANNELS] = MODEL_MEAN;
  const float std[MODEL_INPUT_CHANNELS] = MODEL_STD;
  for (size_t i = 0; i < INPUT_BYTES; ++i) {
    const size_t channel = i % MODEL_INPUT_CHANNELS;
    float value = ((float)pixels[i] - mean[channel]) / std[channel];
    if (!MODEL_INPUT_IS_FLOAT) {
      value = rintf(value / MODEL_INPUT_SCALE + MODEL_INPUT_ZERO_POINT);
      value = fminf(fmaxf(value, MODEL_INPUT_MIN), MODEL_INPUT_MAX);
    }
    input[i] = (model_input_t)value;
  }
}

/* Returns the class of one pixel: its id, or the class of highest score. */
static unsigned char class_of(const model_output_t *pixel) {
  if (MODEL_OUTPUT_IS_IDS) return (unsigned char)pixel[0];
  int best = 0;
  for (int k = 1; k < MODEL_OUTPUT_CHANNELS; ++k) {
    if (pixel[k] > pixel[best]) best = k;
  }
  return (unsigned char)best;
}

static int read_image(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) return 0;
  const size_t count = fread(image, 1, INPUT_BYTES, file);
  const int more = fgetc(file) != EOF;
  fclose(file);
  return count == INPUT_BYTES && !more;
}

int main(int argc, char **argv) {
  memcpy(image, sample_pixels, INPUT_BYTES);
  if (argc > 1 && !read_image(argv[1])) {
    fprintf(stderr,
            "%s is not a file of %d bytes: %d x %d pixels of %d channels\n",
            argv[1], INPUT_BYTES, MODEL_INPUT_HEIGHT, MODEL_INPUT_WIDTH,
            MODEL_INPUT_CHANNELS);
    return 2;
  }
  model_input_t *input = runner_open();
  if (input == NULL) {
    fprintf(stderr,
            "the network was not loaded: build with -DTFLM_DIR=... as in the "
            "README, or raise MODEL_ARENA_BYTES in model.h if TFLite Micro "
            "printed above that it needs more\n");
    return 3;
  }
  quantize(image, input);
  const model_output_t *output = runner_invoke();
  if (output == NULL) {
    fprintf(stderr, "the network failed\n");
    return 4;
  }
  size_t counts[MODEL_CLASSES] = {0};
  size_t differing = 0;
  for (size_t i = 0; i < PIXELS; ++i) {
    ids[i] = class_of(output + i * MODEL_OUTPUT_CHANNELS);
    if (ids[i] < MODEL_CLASSES) ++counts[ids[i]];
    differing += ids[i] != sample_ids[i];
  }
  for (int k = 0; k < MODEL_CLASSES; ++k) {
    if (counts[k]) printf("%s %zu\n", class_names[k], counts[k]);
  }
  if (argc > 1) return 0;
  printf("%zu of %d pixels differ from Python\n", differing, PIXELS);
  return differing != 0;
}
