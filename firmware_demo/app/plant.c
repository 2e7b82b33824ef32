#include "plant.h"

#define GRAVITY 9.8f
#define MASS_POLE 0.1f
#define TOTAL_MASS 1.1f
#define LENGTH 0.5f /* half of the pole's */
#define FORCE 10.0f
#define TAU 0.02f
#define X_LIMIT 2.4f
#define THETA_LIMIT 0.20943951f

static uint32_t next_random(uint32_t *seed)
{
    uint32_t x = *seed; /* xorshift32, Marsaglia 2003 */
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *seed = x;
    return x;
}

void plant_reset(plant_state *state, uint32_t *seed)
{
    float *values[4] = {&state->x, &state->x_dot, &state->theta, &state->theta_dot};
    for (int i = 0; i < 4; i++) {
        const int32_t centred = (int32_t)(next_random(seed) >> 8) - (1 << 23);
        *values[i] = (float)centred * (0.05f / 8388608.0f);
    }
}

/* 1 / (LENGTH * (4/3 - MASS_POLE * cosine^2 / TOTAL_MASS)) is 1 / (c + d * sine^2), here in powers
 * of d / c * sine^2, which is under 0.02 up to 0.5 rad: within 1e-7. A division takes half a
 * kilobyte where there is no floating-point unit. */
static float inverse_inertia(float sine)
{
    const float c = LENGTH * (4.0f / 3.0f - MASS_POLE / TOTAL_MASS);
    const float d = LENGTH * MASS_POLE / TOTAL_MASS;
    const float r = (d / c) * (sine * sine);
    return (1.0f / c) * (1.0f - r * (1.0f - r * (1.0f - r)));
}

void plant_step(plant_state *state, int32_t action)
{
    const float force = action == 1 ? FORCE : -FORCE;
    const float theta = state->theta;
    /* Taylor: within 1e-7 up to 0.5 rad, and an episode ends at 0.21. libm's take 2 KB. */
    const float square = theta * theta;
    const float cosine =
        1.0f - square * (0.5f - square * (1.0f / 24.0f - square * (1.0f / 720.0f)));
    const float sine =
        theta *
        (1.0f - square * (1.0f / 6.0f - square * (1.0f / 120.0f - square * (1.0f / 5040.0f))));

    const float swing = MASS_POLE * LENGTH * (state->theta_dot * state->theta_dot);
    const float push = (force + swing * sine) * (1.0f / TOTAL_MASS);
    const float theta_acc = (GRAVITY * sine - cosine * push) * inverse_inertia(sine);
    const float x_acc = push - (MASS_POLE * LENGTH / TOTAL_MASS) * (theta_acc * cosine);

    state->x += TAU * state->x_dot;
    state->x_dot += TAU * x_acc;
    state->theta += TAU * state->theta_dot;
    state->theta_dot += TAU * theta_acc;
}

bool plant_fallen(const plant_state *state)
{
    const bool inside = state->x >= -X_LIMIT && state->x <= X_LIMIT &&
                        state->theta >= -THETA_LIMIT && state->theta <= THETA_LIMIT;
    return !inside; /* so that what is not a number has fallen */
}
