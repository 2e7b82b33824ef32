/* For cores without a floating-point unit and with little flash: float arithmetic in 600 bytes.
 *
 * libgcc's addition, subtraction, multiplication, comparison and conversion take 2.8 KB on
 * Cortex-M0, newlib's memcpy and memset 300 bytes more. These take their place at link time.
 * Results are those of IEEE 754, rounded to nearest even, subnormals included; a NaN is always
 * the same one. Values are passed as their bits, as the Run-time ABI for the Arm Architecture
 * does. test/test_small.c holds them to the computer's own. */
#include "small.h"

#define SIGN 0x80000000u
#define INFINITE 0x7F800000u
#define NOT_A_NUMBER 0x7FC00000u
#define HIDDEN 0x00800000u
#define FRACTION 0x007FFFFFu
#define TOP (1u << 30) /* where the leading bit stands before rounding: 7 bits above the last */
#define UNORDERED 2

static uint32_t exponent(uint32_t bits)
{
    return bits >> 23 & 255u;
}

static int is_nan(uint32_t bits)
{
    return (bits & ~SIGN) > INFINITE;
}

/* x / 2^n, where a bit that is lost leaves a one behind: enough to round by. */
static uint32_t shift_sticky(uint32_t x, uint32_t n)
{
    if (n > 31u) {
        return x != 0;
    }
    return x >> n | ((x & ((1u << n) - 1u)) != 0);
}

/* The float nearest to x * 2^(e - 157). */
static uint32_t pack(uint32_t sign, int32_t e, uint32_t x)
{
    if (x == 0) {
        return sign;
    }
    if (x & SIGN) {
        x = shift_sticky(x, 1);
        e++;
    }
    while (!(x & TOP)) {
        x <<= 1;
        e--;
    }
    if (e < 1) {
        x = shift_sticky(x, (uint32_t)(1 - e));
        e = 1;
    }
    const uint32_t rest = x & 127u;
    x >>= 7;
    x += rest > 64u || (rest == 64u && (x & 1u));
    /* The hidden bit adds one to the exponent, and so does a carry out of the rounding. */
    x += (uint32_t)(e - 1) << 23;
    return sign | (e > 254 || x > INFINITE ? INFINITE : x);
}

uint32_t SMALL(fadd)(uint32_t a, uint32_t b)
{
    if ((a & ~SIGN) < (b & ~SIGN)) {
        const uint32_t other = a;
        a = b;
        b = other;
    }
    const uint32_t opposed = (a ^ b) & SIGN;
    uint32_t ea = exponent(a), eb = exponent(b);
    if (ea == 255u) {
        return is_nan(a) || (opposed && eb == 255u) ? NOT_A_NUMBER : a;
    }
    const uint32_t x = ((a & FRACTION) | (ea ? HIDDEN : 0)) << 7;
    uint32_t y = ((b & FRACTION) | (eb ? HIDDEN : 0)) << 7;
    ea += ea == 0;
    eb += eb == 0;
    y = shift_sticky(y, ea - eb);
    const uint32_t sum = opposed ? x - y : x + y;
    return pack(sum == 0 && opposed ? 0 : a & SIGN, (int32_t)ea, sum);
}

uint32_t SMALL(fsub)(uint32_t a, uint32_t b)
{
    return SMALL(fadd)(a, b ^ SIGN);
}

/* The significand of a finite value other than 0 with its leading bit at bit 23, and *e lowered by
 * as much as it took. */
static uint32_t significand(uint32_t bits, int32_t *e)
{
    uint32_t x = bits & FRACTION;
    if (exponent(bits)) {
        return x | HIDDEN;
    }
    for (*e += 1; !(x & HIDDEN); *e -= 1) {
        x <<= 1;
    }
    return x;
}

uint32_t SMALL(fmul)(uint32_t a, uint32_t b)
{
    const uint32_t sign = (a ^ b) & SIGN;
    int32_t e = (int32_t)(exponent(a) + exponent(b)) - 126;
    const int special = exponent(a) == 255u || exponent(b) == 255u;
    a &= ~SIGN;
    b &= ~SIGN;
    if (special) {
        return is_nan(a) || is_nan(b) || !a || !b ? NOT_A_NUMBER : sign | INFINITE;
    }
    if (!a || !b) {
        return sign;
    }
    const uint32_t x = significand(a, &e), y = significand(b, &e);
    /* 24 times 24 bits by halves, as Cortex-M0 multiplies 32 bits into 32; the upper 31 are kept. */
    const uint32_t low = (x & 0xFFFu) * (y & 0xFFFu);
    const uint32_t middle = (x >> 12) * (y & 0xFFFu) + (x & 0xFFFu) * (y >> 12) + (low >> 12);
    const uint32_t top = ((x >> 12) * (y >> 12) << 7) + (middle >> 5);
    return pack(sign, e, top | ((low & 0xFFFu) != 0 || (middle & 31u) != 0));
}

uint32_t SMALL(i2f)(int32_t value)
{
    const uint32_t sign = (uint32_t)value & SIGN;
    return pack(sign, 157, sign ? 0u - (uint32_t)value : (uint32_t)value);
}

/* -1, 0 or 1, or UNORDERED. Finite floats and infinities order as their magnitudes do. */
static int order(uint32_t a, uint32_t b)
{
    if (is_nan(a) || is_nan(b)) {
        return UNORDERED;
    }
    const int32_t x = a & SIGN ? -(int32_t)(a & ~SIGN) : (int32_t)a;
    const int32_t y = b & SIGN ? -(int32_t)(b & ~SIGN) : (int32_t)b;
    return x < y ? -1 : x > y;
}

int SMALL(fcmpeq)(uint32_t a, uint32_t b)
{
    return order(a, b) == 0;
}

int SMALL(fcmplt)(uint32_t a, uint32_t b)
{
    return order(a, b) < 0;
}

int SMALL(fcmple)(uint32_t a, uint32_t b)
{
    return order(a, b) <= 0;
}

int SMALL(fcmpgt)(uint32_t a, uint32_t b)
{
    return order(a, b) == 1;
}

int SMALL(fcmpge)(uint32_t a, uint32_t b)
{
    return (order(a, b) & ~1) == 0;
}

#ifndef SMALL_TEST
void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        /* cppcheck-suppress useStandardLibrary */
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    }
    return to;
}

void *memset(void *to, int value, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ((uint8_t *)to)[i] = (uint8_t)value;
    }
    return to;
}
#endif
