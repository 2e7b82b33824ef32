/* STM32F405, Reference Manual RM0090: RCC, FLASH, GPIO, USART1, IWDG; and the core's SysTick. */
#include "port.h"

#include <stddef.h>

#include "ring.h"
#include "systick.h"

#define REG(address) (*(volatile uint32_t *)(address))

#define RCC_CR REG(0x40023800u)
#define RCC_PLLCFGR REG(0x40023804u)
#define RCC_CFGR REG(0x40023808u)
#define RCC_AHB1ENR REG(0x40023830u)
#define RCC_APB2ENR REG(0x40023844u)
#define FLASH_ACR REG(0x40023C00u)

#define GPIOA_MODER REG(0x40020000u)
#define GPIOA_AFRH REG(0x40020024u)
#define GPIOC_MODER REG(0x40020800u)
#define GPIOC_BSRR REG(0x40020818u)

#define USART_SR REG(0x40011000u)
#define USART_DR REG(0x40011004u)
#define USART_BRR REG(0x40011008u)
#define USART_CR1 REG(0x4001100Cu)

#define IWDG_KR REG(0x40003000u)
#define IWDG_PR REG(0x40003004u)
#define IWDG_RLR REG(0x40003008u)

#define NVIC_ISER1 REG(0xE000E104u)

#define HSI_READY (1u << 1)
#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)
#define WAIT_LOOPS 5000u
#define WAIT_TICKS (PORT_HZ / 1000u) /* 1 ms: ten bytes at 115,200 baud */

#define PIN_PUSH 0u   /* PC0: high pushes right */
#define PIN_ENABLE 1u /* PC1: high enables the actuator */

void usart1_handler(void);

static ring received;

void usart1_handler(void)
{
    if (USART_SR & (1u << 5 | 1u << 3)) { /* a byte, or one that was overrun */
        ring_put(&received, (uint8_t)USART_DR);
    }
}

/* 16 MHz HSI / 16 x 336 / 2 = 168 MHz; AHB 168, APB1 42, APB2 84 MHz. */
static void start_clocks(void)
{
    /* The HSI runs on every chip at this point. Where it does not, the clock controller is not
     * there, as in QEMU, which runs at 168 MHz as it is. */
    if (!(RCC_CR & HSI_READY)) {
        return;
    }
    FLASH_ACR = 5u | 7u << 8; /* 5 wait states at 168 MHz, caches and prefetch */
    RCC_PLLCFGR = 16u | 336u << 6 | 7u << 24; /* P of 2 is 0 */
    RCC_CR |= PLL_ON;
    for (uint32_t i = 0; i < WAIT_LOOPS && !(RCC_CR & PLL_READY); i++) {
    }
    RCC_CFGR = 5u << 10 | 4u << 13;
    RCC_CFGR |= 2u; /* without its clock the PLL is refused by the switch */
    for (uint32_t i = 0; i < WAIT_LOOPS && (RCC_CFGR >> 2 & 3u) != 2u; i++) {
    }
}

void port_init(void)
{
    start_clocks();
    systick_start();

    RCC_AHB1ENR |= 1u | 1u << 2; /* GPIOA, GPIOC */
    RCC_APB2ENR |= 1u << 4;      /* USART1 */
    GPIOA_AFRH |= 7u << 4 | 7u << 8;
    GPIOA_MODER = (GPIOA_MODER & ~(0xFu << 18)) | 0xAu << 18; /* PA9 and PA10 */
    GPIOC_BSRR = (1u << PIN_PUSH | 1u << PIN_ENABLE) << 16;
    GPIOC_MODER = (GPIOC_MODER & ~0xFu) | 5u;

    USART_BRR = PORT_HZ / 2u / 115200u;
    USART_CR1 = 1u << 13 | 1u << 5 | 1u << 3 | 1u << 2;
    NVIC_ISER1 = 1u << (37 - 32);

    IWDG_KR = 0x5555u;
    IWDG_PR = 3u;    /* 32 kHz / 32 */
    IWDG_RLR = 200u; /* 200 ms */
    IWDG_KR = 0xCCCCu;
}

bool port_read(uint8_t *byte)
{
    return ring_take(&received, byte);
}

void port_write(const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t begin = port_now();
        while (!(USART_SR & 1u << 7)) {
            if (port_now() - begin > WAIT_TICKS) {
                return;
            }
        }
        USART_DR = bytes[i];
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
        GPIOC_BSRR = (1u << PIN_PUSH | 1u << PIN_ENABLE) << 16;
        return;
    }
    const uint32_t push = *(const uint32_t *)action == 1u;
    GPIOC_BSRR = 1u << PIN_ENABLE | 1u << (push ? PIN_PUSH : PIN_PUSH + 16u);
}

void port_watchdog_feed(void)
{
    IWDG_KR = 0xAAAAu;
}
