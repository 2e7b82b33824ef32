/* Defaults for what a port may leave out; a port's own definition takes their place. */
#include "port.h"

#define WEAK __attribute__((weak))

void WEAK port_idle(uint32_t until)
{
    (void)until;
}

void WEAK port_actuate(bool enabled, const void *action)
{
    (void)enabled;
    (void)action;
}

void WEAK port_watchdog_feed(void)
{
}

uint32_t WEAK port_stack_free(void)
{
    return 0;
}
