/* For cores without a floating-point unit: subtraction and comparison of floats in few bytes.
 *
 * libgcc's own subtraction is a second copy of its addition (800 bytes each on Cortex-M0), and its
 * comparisons take 300. These take their place at link time; values are passed as their bits, as
 * the Run-time ABI for the Arm Architecture does. */
#include <stdint.h>

uint32_t __aeabi_fadd(uint32_t a, uint32_t b); /* libgcc's */
uint32_t __aeabi_fsub(uint32_t a, uint32_t b);
int __aeabi_fcmpeq(uint32_t a, uint32_t b);
int __aeabi_fcmplt(uint32_t a, uint32_t b);
int __aeabi_fcmple(uint32_t a, uint32_t b);
int __aeabi_fcmpgt(uint32_t a, uint32_t b);
int __aeabi_fcmpge(uint32_t a, uint32_t b);

#define SIGN 0x80000000u
#define UNORDERED 2

uint32_t __aeabi_fsub(uint32_t a, uint32_t b)
{
    return __aeabi_fadd(a, b ^ SIGN);
}

static int is_nan(uint32_t bits)
{
    return (bits & ~SIGN) > 0x7F800000u;
}

/* Finite floats and infinities order as their magnitudes do, and both zeros are equal. */
static int32_t key(uint32_t bits)
{
    const int32_t magnitude = (int32_t)(bits & ~SIGN);
    return bits & SIGN ? -magnitude : magnitude;
}

__attribute__((noinline)) static int order(uint32_t a, uint32_t b)
{
    if (is_nan(a) || is_nan(b)) {
        return UNORDERED;
    }
    return key(a) < key(b) ? -1 : key(a) > key(b);
}

int __aeabi_fcmpeq(uint32_t a, uint32_t b)
{
    return order(a, b) == 0;
}

int __aeabi_fcmplt(uint32_t a, uint32_t b)
{
    return order(a, b) < 0;
}

int __aeabi_fcmple(uint32_t a, uint32_t b)
{
    return order(a, b) <= 0;
}

int __aeabi_fcmpgt(uint32_t a, uint32_t b)
{
    return order(a, b) == 1;
}

int __aeabi_fcmpge(uint32_t a, uint32_t b)
{
    const int found = order(a, b);
    return found == 0 || found == 1;
}
