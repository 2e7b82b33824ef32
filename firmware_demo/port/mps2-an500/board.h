/* Arm MPS2 with the AN500 FPGA image: Cortex-M7 at 25 MHz, 4 MB for code, 4 MB of RAM. */
#ifndef BOARD_H
#define BOARD_H

#define PORT_NAME "mps2-an500"
#define PORT_HZ 25000000u

#endif
