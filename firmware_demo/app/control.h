/* The control step: observation in, action out, with its timings and the actuator's enable. */
#ifndef CONTROL_H
#define CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "policy.h"

#ifndef CONTROL_PERIOD_US
#define CONTROL_PERIOD_US 20000u /* CartPole's 50 Hz */
#endif

/* The types that policy_act() takes, as set by the build from the policy's spec. */
#ifdef POPS_CONTINUOUS
typedef float control_action;
#else
typedef int32_t control_action;
#endif
#ifdef POPS_OBSERVATION_U8
typedef uint8_t control_observation;
#else
typedef float control_observation;
#endif

#define CONTROL_OBSERVATION_BYTES (POLICY_OBSERVATION_SIZE * sizeof(control_observation))
#define CONTROL_ACTION_BYTES (POLICY_ACTION_SIZE * sizeof(control_action))

typedef struct {
    control_action action[POLICY_ACTION_SIZE]; /* of the last step */
    uint32_t steps;
    uint32_t missed;    /* steps that did not end within their period */
    uint32_t inference; /* ticks that the last step took, from observation to action */
    uint32_t longest;   /* the most that a step has taken since reset */
    uint32_t last_good; /* when the last usable observation came */
    uint32_t timeout;   /* ticks without one after which the actuator is disabled */
    bool enabled;       /* whether actions reach the actuator */
} controller;

void control_init(controller *control);

/* Whether the policy on this board computes the outputs it was generated with. */
bool control_self_test(void);

/* One step: runs the policy on `observation`, hands the action to the actuator. `now`: the time.
 * An observation that is not finite leaves the actuator as it is and counts as none. */
policy_status control_step(controller *control, const control_observation *observation,
                           uint32_t now);

/* Counts a step that began at `begun`. It is missed if by now more than a period has passed since
 * `due`, when it should have begun. */
void control_account(controller *control, uint32_t begun, uint32_t due);

/* The network's raw outputs for an observation; nothing is actuated. */
policy_status control_outputs(const control_observation *observation, float *outputs);

void control_enable(controller *control, bool enabled, uint32_t now);

/* Disables the actuator if `timeout` has passed since the last usable observation.
 * The ticks that it has been, if it did so just now; else 0. */
uint32_t control_check_timeout(controller *control, uint32_t now);

/* The earlier of `due` and the time at which silence disables the actuator. */
uint32_t control_wake(const controller *control, uint32_t due);

#endif
