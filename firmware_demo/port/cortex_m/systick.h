/* port_now() from the core's SysTick, for boards where PORT_HZ is the core's clock. */
#ifndef SYSTICK_H
#define SYSTICK_H

void systick_start(void); /* an interrupt a millisecond */
void systick_handler(void);

#endif
