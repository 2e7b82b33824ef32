/* The compiler calls these by their names of the Arm run-time ABI; nothing includes this but
 * small.c and its test, which gives them names of its own. */
#ifndef SMALL_H
#define SMALL_H

#include <stddef.h>
#include <stdint.h>

#ifdef SMALL_TEST
#define SMALL(name) small_##name
#else
#define SMALL(name) __aeabi_##name
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int value, size_t n);
#endif

uint32_t SMALL(fadd)(uint32_t a, uint32_t b);
uint32_t SMALL(fsub)(uint32_t a, uint32_t b);
uint32_t SMALL(fmul)(uint32_t a, uint32_t b);
uint32_t SMALL(i2f)(int32_t value);
int SMALL(fcmpeq)(uint32_t a, uint32_t b);
int SMALL(fcmplt)(uint32_t a, uint32_t b);
int SMALL(fcmple)(uint32_t a, uint32_t b);
int SMALL(fcmpgt)(uint32_t a, uint32_t b);
int SMALL(fcmpge)(uint32_t a, uint32_t b);

#endif
