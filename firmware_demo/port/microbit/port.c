/* nRF51822 Reference Manual 3.0: CLOCK, TIMER, UART, WDT and GPIO. */
#include "port.h"

#include <stddef.h>

#include "ring.h"

#define REG(address) (*(volatile uint32_t *)(address))

#define CLOCK_HFCLKSTART REG(0x40000000u)
#define CLOCK_HFCLKSTARTED REG(0x40000100u)

#define UART_STARTRX REG(0x40002000u)
#define UART_STARTTX REG(0x40002008u)
#define UART_RXDRDY REG(0x40002108u)
#define UART_TXDRDY REG(0x4000211Cu)
#define UART_INTENSET REG(0x40002304u)
#define UART_ENABLE REG(0x40002500u)
#define UART_PSELTXD REG(0x4000250Cu)
#define UART_PSELRXD REG(0x40002514u)
#define UART_RXD REG(0x40002518u)
#define UART_TXD REG(0x4000251Cu)
#define UART_BAUDRATE REG(0x40002524u)

#define TIMER_START REG(0x40008000u)
#define TIMER_CAPTURE0 REG(0x40008040u)
#define TIMER_COMPARE1 REG(0x40008144u)
#define TIMER_INTENSET REG(0x40008304u)
#define TIMER_BITMODE REG(0x40008508u)
#define TIMER_PRESCALER REG(0x40008510u)
#define TIMER_CC0 REG(0x40008540u)
#define TIMER_CC1 REG(0x40008544u)

#define WDT_START REG(0x40010000u)
#define WDT_CRV REG(0x40010504u)
#define WDT_RREN REG(0x40010508u)
#define WDT_RR0 REG(0x40010600u)

#define GPIO_OUTSET REG(0x50000508u)
#define GPIO_OUTCLR REG(0x5000050Cu)
#define GPIO_DIRSET REG(0x50000518u)

#define NVIC_ISER REG(0xE000E100u)

#define PIN_TXD 24u /* to the interface chip, which is the USB serial line */
#define PIN_RXD 25u
#define PIN_PUSH (1u << 3)   /* edge connector 0: high pushes right */
#define PIN_ENABLE (1u << 2) /* edge connector 1: high enables the actuator */
#define BAUD_115200 0x01D7E000u
#define WAIT_TICKS (PORT_HZ / 1000u) /* 1 ms: ten bytes at 115,200 baud */

void uart_handler(void);
void timer_handler(void);

static ring received;

void uart_handler(void)
{
    while (UART_RXDRDY) {
        UART_RXDRDY = 0;
        ring_put(&received, (uint8_t)UART_RXD);
    }
}

void timer_handler(void)
{
    TIMER_COMPARE1 = 0; /* it has woken the loop, which is all it is for */
}

void port_init(void)
{
    CLOCK_HFCLKSTART = 1;
    for (uint32_t i = 0; i < 10000u && !CLOCK_HFCLKSTARTED; i++) {
    }
    TIMER_BITMODE = 3; /* 32 bits */
    TIMER_PRESCALER = 0;
    TIMER_INTENSET = 1u << 17;
    TIMER_START = 1;

    UART_PSELTXD = PIN_TXD;
    UART_PSELRXD = PIN_RXD;
    UART_BAUDRATE = BAUD_115200;
    UART_ENABLE = 4;
    UART_INTENSET = 1u << 2;
    UART_STARTTX = 1;
    UART_STARTRX = 1;

    GPIO_OUTCLR = PIN_ENABLE | PIN_PUSH;
    GPIO_DIRSET = PIN_ENABLE | PIN_PUSH;

    WDT_CRV = 32768u / 5u; /* 200 ms */
    WDT_RREN = 1;
    WDT_START = 1;

    NVIC_ISER = 1u << 2 | 1u << 8;
}

uint32_t port_now(void)
{
    TIMER_CAPTURE0 = 1;
    return TIMER_CC0;
}

bool port_read(uint8_t *byte)
{
    return ring_take(&received, byte);
}

void port_write(const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        UART_TXDRDY = 0;
        UART_TXD = bytes[i];
        const uint32_t begin = port_now();
        while (!UART_TXDRDY) {
            if (port_now() - begin > WAIT_TICKS) {
                return;
            }
        }
    }
}

void port_idle(uint32_t until)
{
    TIMER_COMPARE1 = 0;
    TIMER_CC1 = until;
    /* An interrupt that comes after the test still ends the sleep: masked, it stays pending. */
    __asm volatile("cpsid i" ::: "memory");
    if (ring_empty(&received) && port_now() - until >= 0x80000000u) {
        __asm volatile("wfi");
    }
    __asm volatile("cpsie i" ::: "memory");
}

void port_actuate(bool enabled, const void *action)
{
    if (!enabled || action == NULL) {
        GPIO_OUTCLR = PIN_ENABLE | PIN_PUSH;
        return;
    }
    if (*(const uint32_t *)action == 1u) {
        GPIO_OUTSET = PIN_PUSH;
    } else {
        GPIO_OUTCLR = PIN_PUSH;
    }
    GPIO_OUTSET = PIN_ENABLE;
}

void port_watchdog_feed(void)
{
    WDT_RR0 = 0x6E524635u;
}
