#include "reset.h"

#include <stddef.h>

#include "port.h"

#define PAINT 0xA5A5A5A5u

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_bottom[];

int main(void);

/* The linker's symbols are compared as numbers: to C they are unrelated objects. */
static uintptr_t at(const uint32_t *address)
{
    return (uintptr_t)address;
}

void reset_handler(void)
{
#ifdef __ARM_FP
    volatile uint32_t *const cpacr = (volatile uint32_t *)0xE000ED88u;
    *cpacr |= 0xFu << 20; /* the FPU is off at reset */
    __asm volatile("dsb\n\tisb" ::: "memory");
#endif
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; at(to) < at(data_end); to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; at(to) < at(bss_end); to++) {
        *to = 0;
    }
    /* 16 words of this function's own are spared. */
    const uintptr_t end = (uintptr_t)__builtin_frame_address(0) - 64u;
    for (uint32_t *to = stack_bottom; at(to) < end; to++) {
        *to = PAINT;
    }
    (void)main();
    fault_handler();
}

void fault_handler(void)
{
    port_actuate(false, NULL);
    for (;;) {
    }
}

uint32_t port_stack_free(void)
{
    const uint32_t *word = stack_bottom;
    while (*word == PAINT && at(word) < at(stack_top)) {
        word++;
    }
    return (uint32_t)(at(word) - at(stack_bottom));
}
