#include "reset.h"

void uart_handler(void);
void timer_handler(void);

/* 16 of the core, then the nRF51's: UART0 is interrupt 2, TIMER0 is 8. */
__attribute__((section(".vectors"), used)) static const vector vectors[16 + 32] = {
    [0] = STACK_VECTOR,
    [1] = reset_handler,
    [2] = fault_handler,
    [3] = fault_handler,
    [11] = fault_handler,
    [14] = fault_handler,
    [15] = fault_handler,
    [16 + 2] = uart_handler,
    [16 + 8] = timer_handler,
};
