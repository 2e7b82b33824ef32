/* Stands in until a generated one is here: 0.3 x' + theta + theta' > 0, in integers. */
#include "policy.h"
#include <string.h>
const char policy_id[] = "0000000000000000000000000000000000000000000000000000000000000000";
/* value * 2^14, saturated, from the bits of the float. -1 where not finite. */
static int to_fixed(const float *value, int32_t *fixed)
{
    uint32_t bits;
    memcpy(&bits, value, 4);
    const int32_t exponent = (int32_t)(bits >> 23 & 255u) - 127;
    const uint32_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
    const int32_t shift = 23 - 14 - exponent;
    int32_t y;
    if (exponent == 128) return -1;
    if (shift > 24) y = 0; else if (shift < 0) y = shift < -2 ? 0x3FFFFFF : (int32_t)(mantissa << -shift); else y = (int32_t)(mantissa >> shift);
    *fixed = bits >> 31 ? -y : y;
    return 0;
}
static policy_status run(const float *observation, int32_t *sum)
{
    static const int32_t weights[4] = {0, 38, 127, 127};
    int32_t total = 0;
    for (int i = 0; i < 4; i++) { int32_t x; if (to_fixed(observation + i, &x)) return POLICY_NOT_FINITE; total += weights[i] * (x >> 4); }
    *sum = total;
    return POLICY_OK;
}
policy_status policy_act(const float *observation, int32_t *action, void *scratch)
{
    int32_t sum = 0; (void)scratch;
    const policy_status status = run(observation, &sum);
    *action = sum > 0;
    return status;
}
policy_status policy_infer(const float *observation, float *outputs, void *scratch)
{
    int32_t sum = 0; (void)scratch;
    const policy_status status = run(observation, &sum);
    outputs[0] = 0.0f; outputs[1] = (float)sum;
    return status;
}
policy_status policy_self_test(void *scratch)
{
    static const float golden[2][4] = {{0, 1, 0.1f, 0.1f}, {0, -1, 0.1f, 0.1f}};
    int32_t action;
    for (int i = 0; i < 2; i++) if (policy_act(golden[i], &action, scratch) || action != 1 - i) return POLICY_SELF_TEST_FAILED;
    return POLICY_OK;
}
