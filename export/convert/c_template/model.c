/* Generated. */
#include "model.h"

#if defined(__GNUC__)
__attribute__((aligned(16)))
#endif
const unsigned char model_data[MODEL_BYTES] = {
$MODEL_DATA
};
