/* What a compiler or a generated policy may call and that would otherwise come from a C library.
 *
 * The libraries in a bundle are linked with -nostdlib: they load on any Linux of their
 * architecture, whatever C library it has. Unused functions are dropped by the linker.
 *
 * The mathematical functions compute in double and round once, so their results lie within one
 * unit in the last place of a float of the exact value.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    while (n--) *t++ = *f++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    if (t < f)
        while (n--) *t++ = *f++;
    else
        while (n--) t[n] = f[n];
    return to;
}

void *memset(void *to, int value, size_t n)
{
    unsigned char *t = to;
    while (n--) *t++ = (unsigned char)value;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (; n--; x++, y++)
        if (*x != *y) return *x < *y ? -1 : 1;
    return 0;
}

/* exp by reduction to |r| <= ln 2 / 2 and a Taylor series, whose rest is below 2^-53 there. */
double exp(double x)
{
    if (x != x) return x;
    if (x > 709.0) return (double)__builtin_inff();
    if (x < -700.0) return 0.0;
    double scaled = x * 1.4426950408889634;
    int32_t k = (int32_t)(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
    double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    double sum = 1.0;
    for (int32_t i = 14; i > 0; i--) sum = 1.0 + sum * r / i;
    union { uint64_t bits; double value; } power = {(uint64_t)(k + 1023) << 52};
    return sum * power.value;
}

double tanh(double x)
{
    double a = x < 0.0 ? -x : x;
    double y;
    if (x != x) return x;
    if (a > 20.0)
        y = 1.0;
    else if (a < 0.0625) {
        double s = a * a;
        y = a * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835 +
                s * (-1382.0 / 155925 + s * (21844.0 / 6081075)))))));
    } else {
        double e = exp(2.0 * a);
        y = (e - 1.0) / (e + 1.0);
    }
    return x < 0.0 ? -y : y;
}

float expf(float x)
{
    double y = exp((double)x);
    return y > 3.4028235677973366e+38 ? __builtin_inff() : (float)y;
}

float tanhf(float x)
{
    return x == 0.0f ? x : (float)tanh((double)x);
}

float expm1f(float x)
{
    double v = (double)x;
    if (v < 0.0625 && v > -0.0625) {
        double sum = 1.0;
        for (int32_t i = 12; i > 1; i--) sum = 1.0 + sum * v / i;
        return x == 0.0f ? x : (float)(v * sum);
    }
    return v > 89.0 ? __builtin_inff() : (float)(exp(v) - 1.0);
}

#if defined(__arm__)
/* Run-time calls of the ARM ABI. The cross compiler's own libgcc is built for ARMv7 and must not
 * end up in a library for ARMv6. They take floating point in core registers, whatever the caller's
 * convention is. */
#define SOFT __attribute__((pcs("aapcs")))

static uint32_t divide(uint32_t n, uint32_t d, uint32_t *rest)
{
    uint32_t q = 0, r = 0;
    for (int32_t i = 31; i >= 0; i--) {
        r = (r << 1) | ((n >> i) & 1u);
        if (d != 0 && r >= d) {
            r -= d;
            q |= (uint32_t)1 << i;
        }
    }
    *rest = r;
    return q;
}

static uint64_t divide_signed(int32_t n, int32_t d)
{
    uint32_t rest;
    uint32_t q = divide(n < 0 ? 0u - (uint32_t)n : (uint32_t)n, d < 0 ? 0u - (uint32_t)d : (uint32_t)d,
                        &rest);
    if ((n < 0) != (d < 0)) q = 0u - q;
    if (n < 0) rest = 0u - rest;
    return ((uint64_t)rest << 32) | q;
}

uint32_t __aeabi_uidiv(uint32_t n, uint32_t d)
{
    uint32_t rest;
    return divide(n, d, &rest);
}

uint64_t __aeabi_uidivmod(uint32_t n, uint32_t d)
{
    uint32_t rest;
    uint32_t q = divide(n, d, &rest);
    return ((uint64_t)rest << 32) | q;
}

int32_t __aeabi_idiv(int32_t n, int32_t d)
{
    return (int32_t)(uint32_t)divide_signed(n, d);
}

uint64_t __aeabi_idivmod(int32_t n, int32_t d)
{
    return divide_signed(n, d);
}

SOFT double __aeabi_ul2d(uint64_t v)
{
    return (double)(uint32_t)(v >> 32) * 4294967296.0 + (double)(uint32_t)v;
}

SOFT double __aeabi_l2d(int64_t v)
{
    return (double)(int32_t)(v >> 32) * 4294967296.0 + (double)(uint32_t)v;
}

/* Rounds once: the low bits that a float cannot hold are gathered into a sticky bit before the
 * number passes through double. */
SOFT float __aeabi_ul2f(uint64_t v)
{
    if (v >> 53) v = (v & ~(uint64_t)2047) | ((v & 2047) ? 2048u : 0u);
    return (float)((double)(uint32_t)(v >> 32) * 4294967296.0 + (double)(uint32_t)v);
}

SOFT float __aeabi_l2f(int64_t v)
{
    return v < 0 ? -__aeabi_ul2f(0u - (uint64_t)v) : __aeabi_ul2f((uint64_t)v);
}

static uint64_t truncate(double a)
{
    uint32_t high = (uint32_t)(a / 4294967296.0);
    return ((uint64_t)high << 32) | (uint32_t)(a - (double)high * 4294967296.0);
}

SOFT int64_t __aeabi_d2lz(double v)
{
    if (v != v) return 0;
    if (v >= 9223372036854775808.0) return INT64_MAX;
    if (v < -9223372036854775808.0) return INT64_MIN;
    return v < 0.0 ? (int64_t)(0u - truncate(-v)) : (int64_t)truncate(v);
}

SOFT int64_t __aeabi_f2lz(float v)
{
    return __aeabi_d2lz((double)v);
}
#endif
