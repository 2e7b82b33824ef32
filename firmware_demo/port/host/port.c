#define _POSIX_C_SOURCE 200809L

#include "port.h"

#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint8_t buffer[256];
static uint32_t used, filled;
static struct timespec start;

void port_init(void)
{
    clock_gettime(CLOCK_MONOTONIC, &start);
}

uint32_t port_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t seconds = (int64_t)(now.tv_sec - start.tv_sec);
    const int64_t nanoseconds = seconds * 1000000000 + (now.tv_nsec - start.tv_nsec);
    return (uint32_t)(nanoseconds / (1000000000 / (int64_t)PORT_HZ));
}

static void fill(int timeout_ms)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&input, 1, timeout_ms) > 0) {
        const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
        if (n <= 0) {
            exit(0); /* the line was hung up */
        }
        used = 0;
        filled = (uint32_t)n;
    }
}

bool port_read(uint8_t *byte)
{
    if (used == filled) {
        fill(0);
    }
    if (used == filled) {
        return false;
    }
    *byte = buffer[used++];
    return true;
}

void port_write(const uint8_t *bytes, uint32_t n)
{
    while (n) {
        const ssize_t sent = write(STDOUT_FILENO, bytes, n);
        if (sent <= 0) {
            exit(0);
        }
        bytes += sent;
        n -= (uint32_t)sent;
    }
}

void port_idle(uint32_t until)
{
    const uint32_t left = until - port_now();
    if (used == filled && left < 0x80000000u) {
        fill((int)(left / (PORT_HZ / 1000u)) + 1);
    }
}
