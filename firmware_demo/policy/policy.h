#ifndef POLICY_H
#define POLICY_H
#include <stdint.h>
#define POLICY_OBSERVATION_SIZE 4
#define POLICY_OUTPUT_SIZE 2
#define POLICY_ACTION_SIZE 1
#define POLICY_SCRATCH_BYTES 16
#define POLICY_SCRATCH_ALIGN 4
typedef enum { POLICY_OK = 0, POLICY_OUT_OF_RANGE = 1, POLICY_NOT_FINITE = 2, POLICY_BAD_ARGUMENT = 3, POLICY_SELF_TEST_FAILED = 4 } policy_status;
policy_status policy_act(const float *observation, int32_t *action, void *scratch);
policy_status policy_infer(const float *observation, float *outputs, void *scratch);
policy_status policy_self_test(void *scratch);
extern const char policy_id[];
#endif
