#include "systick.h"

#include "port.h"

#define REG(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CTRL REG(0xE000E010u)
#define SYSTICK_LOAD REG(0xE000E014u)
#define SYSTICK_VAL REG(0xE000E018u)
#define SCB_ICSR REG(0xE000ED04u)
#define TICKS_PER_MS (PORT_HZ / 1000u)

static volatile uint32_t milliseconds;

void systick_start(void)
{
    SYSTICK_LOAD = TICKS_PER_MS - 1u;
    SYSTICK_VAL = 0;
    SYSTICK_CTRL = 7u;
}

void systick_handler(void)
{
    milliseconds++;
}

uint32_t port_now(void)
{
    uint32_t before, value, wrapped;
    do {
        before = milliseconds;
        value = SYSTICK_VAL;
        wrapped = SCB_ICSR & (1u << 26);
    } while (before != milliseconds);
    if (wrapped && value > TICKS_PER_MS / 2u) {
        before++; /* the counter has gone round, its interrupt has not come yet */
    }
    return before * TICKS_PER_MS + (TICKS_PER_MS - 1u - value);
}
