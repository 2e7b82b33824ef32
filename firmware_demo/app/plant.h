/* A cart with a pole on it: the equations and constants of Gymnasium's CartPole-v1. */
#ifndef PLANT_H
#define PLANT_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    float x;         /* m */
    float x_dot;     /* m/s */
    float theta;     /* rad, 0 is upright */
    float theta_dot; /* rad/s */
} plant_state;

/* Each value uniform in -0.05 .. 0.05, from a small generator whose state is *seed (not 0). */
void plant_reset(plant_state *state, uint32_t *seed);

/* One Euler step of 20 ms. `action`: 1 pushes right, 0 pushes left, with 10 N. */
void plant_step(plant_state *state, int32_t action);

/* The cart left -2.4 .. 2.4 m, or the pole -12 .. 12 degrees. */
bool plant_fallen(const plant_state *state);

#endif
