// Runs the network on TensorFlow Lite Micro with the operators that it has.
#include "runner.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {
alignas(16) uint8_t arena[MODEL_ARENA_BYTES];
tflite::MicroInterpreter *interpreter = nullptr;
}  // namespace

extern "C" {

model_input_t *runner_open(void) {
  if (interpreter == nullptr) {
    static tflite::MicroMutableOpResolver<$OPERATOR_COUNT> resolver;
$ADD_OPERATORS
    static tflite::MicroInterpreter own(tflite::GetModel(model_data), resolver,
                                        arena, MODEL_ARENA_BYTES);
    if (own.AllocateTensors() != kTfLiteOk) return nullptr;
    interpreter = &own;
  }
  return reinterpret_cast<model_input_t *>(interpreter->input(0)->data.data);
}

const model_output_t *runner_invoke(void) {
  if (interpreter == nullptr || interpreter->Invoke() != kTfLiteOk) {
    return nullptr;
  }
  return reinterpret_cast<const model_output_t *>(
      interpreter->output(0)->data.data);
}

}  // extern "C"
