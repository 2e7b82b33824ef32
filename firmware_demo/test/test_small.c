/* port/cortex_m/small.c against this computer's floating-point unit. */
#include <string.h>

#include "check.h"
#include "small.h"

static uint64_t state = 0x9E3779B97F4A7C15u;

static uint32_t random_u32(void)
{
    state ^= state << 13; /* xorshift64, Marsaglia 2003 */
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static float value(uint32_t bits)
{
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static uint32_t bits_of(float x)
{
    uint32_t result;
    memcpy(&result, &x, sizeof result);
    return x != x ? 0x7FC00000u : result; /* one NaN for all */
}

static void check_pair(uint32_t a, uint32_t b)
{
    const float x = value(a), y = value(b);
    CHECK(small_fadd(a, b) == bits_of(x + y));
    CHECK(small_fsub(a, b) == bits_of(x - y));
    CHECK(small_fmul(a, b) == bits_of(x * y));
    CHECK(small_fcmpeq(a, b) == (x == y));
    CHECK(small_fcmplt(a, b) == (x < y));
    CHECK(small_fcmple(a, b) == (x <= y));
    CHECK(small_fcmpgt(a, b) == (x > y));
    CHECK(small_fcmpge(a, b) == (x >= y));
}

static const uint32_t corners[] = {
    0x00000000u, 0x00000001u, 0x00000002u, 0x007FFFFFu, 0x00800000u, 0x00800001u, 0x33800000u,
    0x34000000u, 0x3F7FFFFFu, 0x3F800000u, 0x3F800001u, 0x40000000u, 0x4B000000u, 0x4B7FFFFFu,
    0x4B800000u, 0x7E800000u, 0x7F000000u, 0x7F7FFFFFu, 0x7F800000u, 0x7F800001u, 0x7FC00000u,
};

/* Close exponents, where rounding and cancellation happen. */
static uint32_t near(uint32_t a)
{
    const uint32_t e = (a >> 23 & 255u) + random_u32() % 64u - 32u;
    return (random_u32() & 0x807FFFFFu) | (e & 255u) << 23;
}

int main(void)
{
    const uint32_t n = sizeof corners / sizeof *corners;
    for (uint32_t i = 0; i < 4u * n * n; i++) {
        check_pair(corners[i / 4u % n] | (i & 1u) << 31, corners[i / 4u / n] | (i & 2u) << 30);
    }
    for (uint32_t i = 0; i < 3000000u; i++) {
        const uint32_t a = random_u32();
        check_pair(a, i & 1u ? random_u32() : near(a));
        check_pair(a & 0x80FFFFFFu, near(a) & (i & 2u ? 0x80FFFFFFu : 0xFFFFFFFFu));
    }
    for (uint32_t i = 0; i < 1000000u; i++) {
        const int32_t whole = (int32_t)random_u32() >> (i % 32u);
        CHECK(small_i2f(whole) == bits_of((float)whole));
    }
    CHECK(small_i2f(INT32_MIN) == bits_of((float)INT32_MIN) && small_i2f(0) == 0);
    puts("ok");
    return 0;
}
