#include "reset.h"
#include "systick.h"

void uart0_handler(void);

/* 16 of the core, then the AN500's: receiving on UART 0 is interrupt 0. */
__attribute__((section(".vectors"), used)) static const vector vectors[16 + 32] = {
    [0] = STACK_VECTOR,
    [1] = reset_handler,
    [2] = fault_handler,
    [3] = fault_handler,
    [4] = fault_handler,
    [5] = fault_handler,
    [6] = fault_handler,
    [11] = fault_handler,
    [12] = fault_handler,
    [14] = fault_handler,
    [15] = systick_handler,
    [16] = uart0_handler,
};
