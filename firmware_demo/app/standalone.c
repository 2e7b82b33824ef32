#include "standalone.h"

#include "port.h"
#include "telemetry.h"

#if POLICY_OBSERVATION_SIZE != 4 || POLICY_OUTPUT_SIZE != 2
#error "The standalone demo needs a CartPole policy; build this one with -DPOPS_STANDALONE=OFF."
#endif

#define LINE_EVERY 50u /* steps: once a second */

void standalone_init(standalone *demo, controller *control)
{
    demo->control = control;
    demo->seed = 1;
    demo->episode = 1;
    demo->step = 0;
    demo->stopped = false;
    plant_reset(&demo->plant, &demo->seed);
    control_enable(control, true, port_now());
}

static void print_line(const standalone *demo)
{
    const controller *control = demo->control;
    telemetry_number("episode ", demo->episode);
    telemetry_number(" step ", demo->step);
    telemetry_real(" x ", demo->plant.x);
    telemetry_real(" theta ", demo->plant.theta);
    telemetry_text(control->action[0] ? " push right" : " push left");
    telemetry_number(" inference ", control->inference);
    telemetry_number(" longest ", control->longest);
    telemetry_number(" missed ", control->missed);
    telemetry_end();
}

static void next_episode(standalone *demo, bool fallen)
{
    telemetry_number("episode ", demo->episode);
    telemetry_number(fallen ? " fell after " : " held for ", demo->step);
    telemetry_text(" steps");
    telemetry_end();
    demo->episode++;
    demo->step = 0;
    plant_reset(&demo->plant, &demo->seed);
}

void standalone_tick(standalone *demo, uint32_t due, uint32_t now)
{
    if (demo->stopped) {
        return;
    }
    const float observation[4] = {demo->plant.x, demo->plant.x_dot, demo->plant.theta,
                                  demo->plant.theta_dot};
    const policy_status status = control_step(demo->control, observation, now);
    control_account(demo->control, now, due);
    if (status > POLICY_OUT_OF_RANGE) {
        demo->stopped = true;
        control_enable(demo->control, false, port_now());
        telemetry_text("stopped: the observation is not finite\r\n");
        return;
    }
    plant_step(&demo->plant, demo->control->action[0]);
    demo->step++;
    const bool fallen = plant_fallen(&demo->plant);
    if (demo->step % LINE_EVERY == 0) {
        print_line(demo);
    }
    if (fallen || demo->step == STANDALONE_STEPS) {
        next_episode(demo, fallen);
    }
}
