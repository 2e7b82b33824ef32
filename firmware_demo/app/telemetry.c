#include "telemetry.h"

#include "port.h"

void telemetry_text(const char *text)
{
    uint32_t n = 0;
    while (text[n]) {
        n++;
    }
    port_write((const uint8_t *)text, n);
}

/* Decimal digits with a point before the last `decimals` of them. Repeated subtraction:
 * Cortex-M0 cannot divide. */
static void digits(uint32_t value, uint32_t decimals)
{
    static const uint32_t powers[10] = {1000000000u, 100000000u, 10000000u, 1000000u, 100000u,
                                        10000u,      1000u,      100u,      10u,      1u};
    char text[12];
    uint32_t n = 0;
    for (uint32_t i = 0; i < 10; i++) {
        char digit = '0';
        while (value >= powers[i]) {
            value -= powers[i];
            digit++;
        }
        if (decimals && i == 10u - decimals) {
            text[n++] = '.';
        }
        if (n || digit != '0' || i + decimals + 1u >= 10u) {
            text[n++] = digit;
        }
    }
    text[n] = 0;
    telemetry_text(text);
}

void telemetry_number(const char *name, uint32_t value)
{
    telemetry_text(name);
    digits(value, 0);
}

void telemetry_real(const char *name, float value)
{
    telemetry_text(name);
    if (value < 0.0f) {
        telemetry_text("-");
        value = -value;
    }
    const bool fits = value < 2000000.0f;
    digits(fits ? (uint32_t)(int32_t)(value * 1000.0f) : 2000000000u, 3);
}

void telemetry_end(void)
{
    telemetry_text("\r\n");
}
