/* Boot, self-test, then for ever: wait for the tick or a byte, act, feed the watchdog. */
#include "control.h"
#include "link.h"
#include "port.h"
#include "telemetry.h"
#ifdef POPS_STANDALONE
#include "standalone.h"
#endif

#define PERIOD (PORT_HZ / 1000000u * CONTROL_PERIOD_US)

static controller control;
static serial_link line;
#ifdef POPS_STANDALONE
static standalone demo;
#endif

/* Once, after the first tick: a line takes longer than the start has. */
static void announce(bool stopped)
{
    telemetry_text("pops on " PORT_NAME ", policy ");
    telemetry_text(policy_id);
    telemetry_number(", timer ", PORT_HZ);
    telemetry_text(stopped ? " Hz, SELF-TEST FAILED: the actuator stays off" : " Hz, self-test ok");
    telemetry_end();
}

static bool receive(void)
{
    uint8_t byte;
    bool open = line.session != 0;
    while (port_read(&byte)) {
        open = link_receive(&line, byte);
    }
    return open;
}

/* What happens once in a period. With a computer in the loop its frames are the ticks. */
static void tick(uint32_t due, uint32_t now, bool serial)
{
#ifdef POPS_STANDALONE
    if (!serial && !line.stopped) {
        standalone_tick(&demo, due, now);
    }
#else
    (void)due;
    (void)now;
    (void)serial;
#endif
}

/* `due`, or 50 ms from now: the watchdog is fed in a long period too. */
static uint32_t wake(uint32_t due)
{
    const uint32_t latest = port_now() + PORT_HZ / 20u;
    return latest - due < 0x80000000u ? due : latest;
}

static void run(uint32_t due)
{
    bool announced = false;
    for (;;) {
        const bool serial = receive();
        const uint32_t now = port_now();
        if (now - due < 0x80000000u) {
            if (line.boot == 0) {
                line.boot = now;
            }
            tick(due, now, serial);
            do { /* a tick that was slept through is lost, not run late */
                due += PERIOD;
            } while (port_now() - due - PERIOD < 0x80000000u);
            if (!announced) {
                announce(line.stopped);
                announced = true;
            }
        }
        const uint32_t silence = control_check_timeout(&control, port_now());
        if (silence) {
            link_timed_out(&line, silence);
        }
        port_watchdog_feed();
        port_idle(control_wake(&control, wake(due)));
    }
}

int main(void)
{
    port_init();
    control_init(&control);
    link_init(&line, &control, !control_self_test());
#ifdef POPS_STANDALONE
    if (!line.stopped) {
        standalone_init(&demo, &control);
    }
#endif
    /* The first tick is due at once; those that follow keep to multiples of the period. */
    run(0);
    return 0;
}
