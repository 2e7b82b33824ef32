/* The demo without a computer: a simulated CartPole on the board, balanced by the policy. */
#ifndef STANDALONE_H
#define STANDALONE_H

#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "plant.h"

#define STANDALONE_STEPS 500u /* an episode, as CartPole-v1 */

typedef struct {
    controller *control;
    plant_state plant;
    uint32_t seed;
    uint32_t episode;
    uint32_t step; /* of the episode; 0 before its first */
    bool stopped;  /* an observation was not usable */
} standalone;

void standalone_init(standalone *demo, controller *control);

/* One tick: control step, then plant step, then, once in 50, a line of telemetry. */
void standalone_tick(standalone *demo, uint32_t due, uint32_t now);

#endif
