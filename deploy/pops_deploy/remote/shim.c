/* One generated policy behind fixed names, for dlopen.
 *
 * Compiled together with the generated policy.c, once for each policy and architecture:
 * POLICY_HEADER is its header, PREFIX and UPPER are its prefix in lower and upper case. The
 * generated prototypes differ in the types of observation and action (float, uint8_t, int32_t);
 * pointers to void fit all of them, so that this file need not know.
 */
#include <stdint.h>
#include POLICY_HEADER

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(suffix) JOIN(PREFIX, suffix)
#define SIZE(suffix) JOIN(UPPER, suffix)
#define EXPORT __attribute__((visibility("default")))

EXPORT int32_t pops_act(const void *observation, void *action, void *scratch)
{
    return (int32_t)NAME(_act)(observation, action, scratch);
}

EXPORT int32_t pops_infer(const void *observation, void *outputs, void *scratch)
{
    return (int32_t)NAME(_infer)(observation, outputs, scratch);
}

/* Acts on `count` observations in turn, `stride` bytes apart, into one action. For timing: what
 * one call costs without the way from Python and back. Returns the greatest status. */
EXPORT int32_t pops_act_many(const void *observations, int32_t count, int32_t stride, void *action,
                             void *scratch)
{
    const unsigned char *observation = observations;
    int32_t worst = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t status = (int32_t)NAME(_act)((const void *)observation, action, scratch);
        worst = status > worst ? status : worst;
        observation += stride;
    }
    return worst;
}

EXPORT int32_t pops_self_test(void *scratch)
{
#if SIZE(_BYTES)
    static uint8_t image[SIZE(_OBSERVATION_SIZE)];
    return (int32_t)NAME(_self_test)(image, scratch);
#else
    return (int32_t)NAME(_self_test)(scratch);
#endif
}

/* 0 to 4: elements of an observation, outputs, elements of an action, bytes of scratch, their
 * alignment. */
EXPORT int32_t pops_size(int32_t which)
{
    switch (which) {
    case 0: return (int32_t)SIZE(_OBSERVATION_SIZE);
    case 1: return (int32_t)SIZE(_OUTPUT_SIZE);
    case 2: return (int32_t)SIZE(_ACTION_SIZE);
    case 3: return (int32_t)SIZE(_SCRATCH_BYTES);
    case 4: return (int32_t)SIZE(_SCRATCH_ALIGN);
    default: return -1;
    }
}

EXPORT const char *pops_id(void)
{
    return NAME(_id);
}
