#include "plant.h"

#include <string.h>

/* Without a floating-point unit each operation is a function of half a kilobyte. So nothing is
 * subtracted, divided or compared here: signs are in the constants, the one division is a series,
 * and magnitudes are compared as integers. */
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

/* 1 / (LENGTH * (4/3 - MASS_POLE * cosine^2 / TOTAL_MASS)), as 1 / (c + d * sine^2) in powers of
 * d / c * sine^2, which is under 0.02 up to 0.5 rad: within 1e-7. */
static float inverse_inertia(float sine)
{
    const float c = LENGTH * (4.0f / 3.0f - MASS_POLE / TOTAL_MASS);
    const float d = LENGTH * MASS_POLE / TOTAL_MASS;
    const float r = sine * sine * (-d / c);
    return (1.0f / c) * (1.0f + r * (1.0f + r * (1.0f + r)));
}

/* -value, by its sign bit: written -value it becomes a subtraction again. */
static float opposite(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits ^= 0x80000000u;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void plant_step(plant_state *state, int32_t action)
{
    const float force = action == 1 ? FORCE : -FORCE;
    const float theta = state->theta;
    /* Taylor: within 1e-7 up to 0.5 rad, and an episode ends at 0.21. */
    const float square = theta * theta;
    const float less = opposite(square);
    const float cosine = 1.0f + less * (0.5f + less * (1.0f / 24.0f + less * (1.0f / 720.0f)));
    const float sine =
        theta * (1.0f + less * (1.0f / 6.0f + less * (1.0f / 120.0f + less * (1.0f / 5040.0f))));

    const float swing = MASS_POLE * LENGTH * (state->theta_dot * state->theta_dot);
    const float against = (force + swing * sine) * (-1.0f / TOTAL_MASS); /* -temp of Gymnasium */
    const float theta_acc = (GRAVITY * sine + cosine * against) * inverse_inertia(sine);
    const float x_brake = against + (MASS_POLE * LENGTH / TOTAL_MASS) * (theta_acc * cosine);

    state->x += TAU * state->x_dot;
    state->x_dot += TAU * opposite(x_brake);
    state->theta += TAU * state->theta_dot;
    state->theta_dot += TAU * theta_acc;
}

/* |value| > limit; true for what is not a number. Positive floats order as their bits do. */
static bool beyond(float value, float limit)
{
    uint32_t value_bits, limit_bits;
    memcpy(&value_bits, &value, sizeof value_bits);
    memcpy(&limit_bits, &limit, sizeof limit_bits);
    return (value_bits & 0x7FFFFFFFu) > limit_bits;
}

bool plant_fallen(const plant_state *state)
{
    return beyond(state->x, X_LIMIT) || beyond(state->theta, THETA_LIMIT);
}
