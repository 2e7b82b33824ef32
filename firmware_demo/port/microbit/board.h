/* BBC micro:bit V1: nRF51822, Cortex-M0 at 16 MHz, 256 KB of flash, 16 KB of RAM. */
#ifndef BOARD_H
#define BOARD_H

#define PORT_NAME "microbit"
#define PORT_HZ 16000000u

#endif
