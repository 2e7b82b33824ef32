/* Protocol, control step and plant on a board whose time stands still. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "control.h"
#include "fake.h"
#include "frame.h"
#include "link.h"
#include "plant.h"

static controller control;
static serial_link line;

static void start(bool stopped)
{
    port_init();
    control_init(&control);
    link_init(&line, &control, stopped);
}

static void receive(const uint8_t *bytes, uint32_t n)
{
    fake.sent = 0;
    for (uint32_t i = 0; i < n; i++) {
        (void)link_receive(&line, bytes[i]);
    }
}

static void request(uint8_t type, uint16_t session, uint16_t sequence, const void *payload,
                    uint16_t n)
{
    uint8_t wire[FRAME_WIRE(64u)];
    const frame_header header = {type, session, sequence};
    receive(wire, frame_encode(wire, header, payload, n));
}

/* Decodes what the board sent; CHECKs that it is one frame. Returns its payload's size. */
static uint16_t reply(frame_header *header, uint8_t *payload)
{
    static uint8_t bytes[512];
    frame_decoder decoder;
    uint32_t frames = 0;
    uint16_t size = 0;
    frame_decoder_init(&decoder, bytes, sizeof bytes);
    for (uint32_t i = 0; i < fake.sent; i++) {
        if (frame_decode(&decoder, fake.output[i], header) == FRAME_GOOD) {
            frames++;
            size = frame_payload_size(&decoder);
            memcpy(payload, frame_payload(&decoder), size);
        }
    }
    CHECK(frames == 1);
    return size;
}

static void expect_error(uint8_t error)
{
    frame_header header;
    uint8_t payload[256];
    CHECK(reply(&header, payload) == 1);
    CHECK(header.type == LINK_ERROR);
    CHECK(payload[0] == error);
}

static void expect(uint8_t type, uint16_t sequence, uint8_t *payload, uint16_t size)
{
    frame_header header;
    CHECK(reply(&header, payload) == size);
    CHECK(header.type == (type | LINK_REPLY));
    CHECK(header.sequence == sequence);
}

static void open_session(uint32_t timeout_ms)
{
    uint8_t timeout[4], payload[256];
    put_u32(timeout, timeout_ms);
    request(LINK_OPEN, 7, 0, timeout, 4);
    expect(LINK_OPEN, 0, payload, 0);
}

static const float upright[4] = {0.0f, 0.1f, 0.05f, 0.1f};
static const float damaged[4] = {0.0f, NAN, 0.05f, 0.1f};

static void test_crc_is_that_of_zlib(void)
{
    CHECK(frame_crc(0, (const uint8_t *)"123456789", 9) == 0xCBF43926u);
}

static void test_frames_of_every_length_come_back(void)
{
    static uint8_t payload[1000], wire[FRAME_WIRE(1000u)], bytes[1012];
    for (uint32_t fill = 0; fill < 3; fill++) {
        for (uint16_t n = 0; n <= sizeof payload; n++) {
            for (uint32_t i = 0; i < n; i++) {
                payload[i] = (uint8_t)(fill == 0 ? 0 : fill == 1 ? 255 : i * 7u);
            }
            frame_header header = {9, 8, 7};
            frame_decoder decoder;
            const uint16_t size = frame_encode(wire, header, payload, n);
            CHECK(size <= FRAME_WIRE((uint32_t)n));
            frame_decoder_init(&decoder, bytes, sizeof bytes);
            for (uint32_t i = 0; i + 1u < size; i++) {
                CHECK(frame_decode(&decoder, wire[i], &header) == FRAME_NONE);
            }
            CHECK(frame_decode(&decoder, 0, &header) == FRAME_GOOD);
            CHECK(header.type == 9 && header.session == 8 && header.sequence == 7);
            CHECK(frame_payload_size(&decoder) == n);
            CHECK(memcmp(frame_payload(&decoder), payload, n) == 0);
        }
    }
}

static void test_hello_names_policy_and_board(void)
{
    uint8_t payload[256];
    start(false);
    request(LINK_HELLO, 0, 3, NULL, 0);
    frame_header header;
    const uint16_t size = reply(&header, payload);
    CHECK(header.type == (LINK_HELLO | LINK_REPLY) && header.sequence == 3);
    CHECK(get_u16(payload) == POLICY_OBSERVATION_SIZE && get_u16(payload + 2) == POLICY_OUTPUT_SIZE);
    CHECK(payload[17] == FRAME_VERSION && payload[20] == 64);
    CHECK(memcmp(payload + 21, policy_id, 64) == 0);
    CHECK(payload[85] == 4 && memcmp(payload + 86, "fake", 4) == 0);
    CHECK(size == 91u + payload[90]);
}

static void test_an_observation_gets_its_action_once(void)
{
    uint8_t payload[256];
    int32_t action;
    start(false);
    open_session(100);
    request(LINK_OBSERVE, 7, 1, upright, sizeof upright);
    expect(LINK_OBSERVE, 1, payload, 16);
    memcpy(&action, payload + 12, 4);
    CHECK(payload[0] == POLICY_OK && action == 1 && payload[1] == 0);
    CHECK(control.steps == 1);
    request(LINK_OBSERVE, 7, 1, upright, sizeof upright); /* the reply was lost */
    expect(LINK_OBSERVE, 1, payload, 16);
    CHECK(control.steps == 1);
    request(LINK_OBSERVE, 7, 3, upright, sizeof upright);
    expect_error(LINK_ERROR_SEQUENCE);
    request(LINK_OBSERVE, 8, 2, upright, sizeof upright);
    expect_error(LINK_ERROR_SESSION);
    request(LINK_OBSERVE, 7, 2, upright, 12);
    expect_error(LINK_ERROR_LENGTH);
    request(0x55, 7, 2, upright, sizeof upright);
    expect_error(LINK_ERROR_TYPE);
    CHECK(control.steps == 1 && line.refused == 4);
}

static void test_sequence_numbers_go_round(void)
{
    uint8_t payload[256], timeout[4];
    start(false);
    put_u32(timeout, 100);
    request(LINK_OPEN, 7, 0xFFFE, timeout, 4);
    request(LINK_STATUS, 7, 0xFFFF, NULL, 0);
    expect(LINK_STATUS, 0xFFFF, payload, LINK_STATUS_REPLY);
    request(LINK_STATUS, 7, 0, NULL, 0);
    expect(LINK_STATUS, 0, payload, LINK_STATUS_REPLY);
}

static void test_nothing_is_served_without_a_session_or_when_stopped(void)
{
    uint8_t timeout[4] = {0};
    start(false);
    request(LINK_OBSERVE, 0, 1, upright, sizeof upright);
    expect_error(LINK_ERROR_SESSION);
    request(LINK_OPEN, 7, 0, timeout, 4);
    expect_error(LINK_ERROR_VALUE);
    start(true);
    put_u32(timeout, 100);
    request(LINK_OPEN, 7, 0, timeout, 4);
    expect_error(LINK_ERROR_STOPPED);
    CHECK(control.steps == 0 && !fake.enabled);
}

static void test_another_version_is_named(void)
{
    uint8_t head[12] = {FRAME_VERSION + 1u, LINK_HELLO, 1, 1, 1, 1, 1, 1};
    uint8_t wire[16] = {0, 13};
    put_u32(head + 8, frame_crc(0, head, 8));
    memcpy(wire + 2, head, 12); /* no zero in it, so COBS has one block */
    for (uint32_t i = 0; i < 12; i++) {
        CHECK(head[i] != 0);
    }
    start(false);
    receive(wire, 15);
    expect_error(LINK_ERROR_VERSION);
}

static void enable(uint16_t sequence)
{
    const uint8_t on = 1;
    uint8_t payload[256];
    request(LINK_ENABLE, 7, sequence, &on, 1);
    expect(LINK_ENABLE, sequence, payload, 1);
    CHECK(payload[0] == LINK_FLAG_ENABLED);
}

static void test_silence_disables_the_actuator(void)
{
    uint8_t payload[256];
    start(false);
    open_session(100);
    request(LINK_OBSERVE, 7, 1, upright, sizeof upright);
    CHECK(!fake.enabled);
    enable(2);
    request(LINK_OBSERVE, 7, 3, upright, sizeof upright);
    CHECK(fake.enabled && fake.last_action == 1);
    fake.now = 99999;
    CHECK(!control_check_timeout(&control, fake.now));
    request(LINK_OBSERVE, 7, 4, damaged, sizeof damaged); /* does not count as a good one */
    expect(LINK_OBSERVE, 4, payload, 16);
    CHECK(payload[0] == POLICY_NOT_FINITE);
    fake.now = 100000;
    CHECK(control_wake(&control, 200000) == 100000 && control_wake(&control, 90000) == 90000);
    CHECK(control_check_timeout(&control, fake.now) == 100000);
    CHECK(!fake.enabled && control_wake(&control, 200000) == 200000);
    link_timed_out(&line, 100000);
    CHECK(!control_check_timeout(&control, fake.now + 1000000u));
    request(LINK_OBSERVE, 7, 5, upright, sizeof upright);
    expect(LINK_OBSERVE, 5, payload, 16);
    CHECK(payload[1] == LINK_FLAG_TIMED_OUT && !fake.enabled); /* until it is enabled again */
    enable(6);
    request(LINK_OBSERVE, 7, 7, upright, sizeof upright);
    CHECK(fake.enabled);
}

static void test_late_steps_are_counted(void)
{
    start(false);
    fake.now = 30;
    control_account(&control, 0, 0);
    CHECK(control.missed == 0 && control.inference == 30 && control.longest == 30);
    fake.now = CONTROL_PERIOD_US + 31u;
    control_account(&control, fake.now - 10u, 30);
    CHECK(control.missed == 1 && control.inference == 10 && control.longest == 30);
    fake.now = 2; /* the timer went round in the middle of a step */
    control_account(&control, 0xFFFFFFF8u, 0xFFFFFFF8u);
    CHECK(control.missed == 1 && control.inference == 10 && control.steps == 3);
}

static void test_the_pole_falls_and_is_reset(void)
{
    uint32_t seed = 1, same = 1;
    plant_state state, again;
    plant_reset(&state, &seed);
    plant_reset(&again, &same);
    CHECK(memcmp(&state, &again, sizeof state) == 0 && !plant_fallen(&state));
    uint32_t steps = 0;
    while (!plant_fallen(&state)) {
        plant_step(&state, 1);
        CHECK(++steps < 20);
    }
    state.x = NAN;
    CHECK(plant_fallen(&state));
}

int main(void)
{
    test_crc_is_that_of_zlib();
    test_frames_of_every_length_come_back();
    test_hello_names_policy_and_board();
    test_an_observation_gets_its_action_once();
    test_sequence_numbers_go_round();
    test_nothing_is_served_without_a_session_or_when_stopped();
    test_another_version_is_named();
    test_silence_disables_the_actuator();
    test_late_steps_are_counted();
    test_the_pole_falls_and_is_reset();
    puts("ok");
    return 0;
}
