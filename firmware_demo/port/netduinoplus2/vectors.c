#include "reset.h"
#include "systick.h"

void usart1_handler(void);

/* 16 of the core, then the STM32F405's 82: USART1 is interrupt 37. */
__attribute__((section(".vectors"), used)) static const vector vectors[16 + 82] = {
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
    [16 + 37] = usart1_handler,
};
