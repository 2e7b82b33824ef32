/* Arm application note AN500 and the CMSDK's APB UART. The two user LEDs stand for an actuator;
 * there is no watchdog here. */
#include "port.h"

#include <stddef.h>

#include "ring.h"
#include "systick.h"

#define REG(address) (*(volatile uint32_t *)(address))

#define UART_DATA REG(0x40004000u)
#define UART_STATE REG(0x40004004u)
#define UART_CTRL REG(0x40004008u)
#define UART_INTCLEAR REG(0x4000400Cu)
#define UART_BAUDDIV REG(0x40004010u)
#define FPGA_LED REG(0x40028000u)
#define NVIC_ISER REG(0xE000E100u)

#define TX_FULL 1u
#define RX_FULL 2u
#define LED_ENABLE 1u
#define LED_PUSH 2u
#define WAIT_TICKS (PORT_HZ / 1000u) /* 1 ms: ten bytes at 115,200 baud */

void uart0_handler(void);

static ring received;

void uart0_handler(void)
{
    UART_INTCLEAR = 2u;
    while (UART_STATE & RX_FULL) {
        ring_put(&received, (uint8_t)UART_DATA);
    }
}

void port_init(void)
{
    systick_start();
    UART_BAUDDIV = PORT_HZ / 115200u;
    UART_CTRL = 1u | 2u | 8u; /* transmitter, receiver, its interrupt */
    FPGA_LED = 0;
    NVIC_ISER = 1u;
}

bool port_read(uint8_t *byte)
{
    return ring_take(&received, byte);
}

void port_write(const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t begin = port_now();
        while (UART_STATE & TX_FULL) {
            if (port_now() - begin > WAIT_TICKS) {
                return;
            }
        }
        UART_DATA = bytes[i];
    }
}

void port_idle(uint32_t until)
{
    (void)until; /* SysTick wakes it once in a millisecond */
    __asm volatile("cpsid i" ::: "memory");
    if (ring_empty(&received)) {
        __asm volatile("wfi"); /* masked interrupts stay pending and end the sleep */
    }
    __asm volatile("cpsie i" ::: "memory");
}

void port_actuate(bool enabled, const void *action)
{
    if (!enabled || action == NULL) {
        FPGA_LED = 0;
        return;
    }
    FPGA_LED = LED_ENABLE | (*(const uint32_t *)action == 1u ? LED_PUSH : 0u);
}
