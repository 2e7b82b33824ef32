/* What the application asks of a board. Four functions make a port. */
#ifndef PORT_H
#define PORT_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h" /* PORT_NAME: the board's name; PORT_HZ: ticks of port_now() in a second */

/* Clocks, the serial line and the timer. Every wait in it has a bound. */
void port_init(void);

/* Ticks of a free-running timer at PORT_HZ; wraps at 2^32. Starts near zero at reset. */
uint32_t port_now(void);

/* Takes the next received byte; false where there is none. Never waits. */
bool port_read(uint8_t *byte);

/* Sends n bytes. Waits for the line, and gives up on a line that stays blocked. */
void port_write(const uint8_t *bytes, uint32_t n);

/* ---- These have defaults that do nothing (app/port_defaults.c). ---- */

/* Sleep until `until` (a time of port_now) or until a byte comes; may return early. */
void port_idle(uint32_t until);

/* Put the actuator where `action` says, or, where `enabled` is false, into its safe state.
 * `action`: POLICY_ACTION_SIZE values, int32_t or float as the policy's; may be NULL if disabled. */
void port_actuate(bool enabled, const void *action);

void port_watchdog_feed(void);

/* Bytes of stack that were never used since reset; 0 where the port cannot tell. */
uint32_t port_stack_free(void);

#endif
