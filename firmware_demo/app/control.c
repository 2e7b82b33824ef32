#include "control.h"

#include <stddef.h>

#include "port.h"

#define PERIOD (PORT_HZ / 1000000u * CONTROL_PERIOD_US)

static uint8_t scratch[POLICY_SCRATCH_BYTES + 1]
    __attribute__((aligned(POLICY_SCRATCH_ALIGN))); /* + 1: a linear policy may need none */

void control_init(controller *control)
{
    *control = (controller){0};
    control->timeout = PERIOD * 5u;
    port_actuate(false, NULL);
}

bool control_self_test(void)
{
#if POLICY_BYTES
    static uint8_t image[POLICY_OBSERVATION_SIZE];
    return policy_self_test(image, scratch) == POLICY_OK;
#else
    return policy_self_test(scratch) == POLICY_OK;
#endif
}

policy_status control_step(controller *control, const control_observation *observation,
                           uint32_t now)
{
    const policy_status status = policy_act(observation, control->action, scratch);
    if (status <= POLICY_OUT_OF_RANGE) {
        control->last_good = now;
        if (control->enabled) {
            port_actuate(true, control->action);
        }
    }
    return status;
}

void control_account(controller *control, uint32_t begun, uint32_t due)
{
    const uint32_t end = port_now();
    control->steps++;
    control->inference = end - begun;
    if (control->inference > control->longest) {
        control->longest = control->inference;
    }
    if (end - due > PERIOD) {
        control->missed++;
    }
}

policy_status control_outputs(const control_observation *observation, float *outputs)
{
    return policy_infer(observation, outputs, scratch);
}

void control_enable(controller *control, bool enabled, uint32_t now)
{
    control->enabled = enabled;
    control->last_good = now;
    if (!enabled) {
        port_actuate(false, NULL);
    }
}

uint32_t control_check_timeout(controller *control, uint32_t now)
{
    const uint32_t silence = now - control->last_good;
    if (!control->enabled || silence < control->timeout) {
        return 0;
    }
    control_enable(control, false, now);
    return silence;
}

uint32_t control_wake(const controller *control, uint32_t due)
{
    const uint32_t disabled = control->last_good + control->timeout;
    return control->enabled && disabled - due >= 0x80000000u ? disabled : due;
}
