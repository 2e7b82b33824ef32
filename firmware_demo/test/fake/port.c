#include "fake.h"

#include <stddef.h>

fake_board fake;

void port_init(void)
{
    fake = (fake_board){0};
}

uint32_t port_now(void)
{
    fake.now += fake.step;
    return fake.now;
}

bool port_read(uint8_t *byte)
{
    (void)byte;
    return false;
}

void port_write(const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n && fake.sent < FAKE_OUTPUT; i++) {
        fake.output[fake.sent++] = bytes[i];
    }
}

void port_actuate(bool enabled, const void *action)
{
    fake.actuations++;
    fake.enabled = enabled;
    if (enabled && action != NULL) {
        fake.last_action = *(const int32_t *)action;
    }
}
