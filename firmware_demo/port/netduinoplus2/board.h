/* Netduino Plus 2: STM32F405RG, Cortex-M4F at 168 MHz, 1 MB of flash, 128 KB of RAM. */
#ifndef BOARD_H
#define BOARD_H

#define PORT_NAME "netduinoplus2"
#define PORT_HZ 168000000u

#endif
