/* Start-up that all Cortex-M boards share. A board's vectors.c puts these into its table. */
#ifndef RESET_H
#define RESET_H

#include <stdint.h>

extern uint32_t stack_top[]; /* from the linker script */

typedef void (*vector)(void);

void reset_handler(void);
/* Any fault or unexpected interrupt: the actuator goes off and the watchdog, unfed, resets. */
void fault_handler(void);
/* The table's first word is no function: the address where the stack begins. */
#define STACK_VECTOR ((vector)(uintptr_t)stack_top)

#endif
