/* This computer: standard input and output are the serial line. */
#ifndef BOARD_H
#define BOARD_H

#define PORT_NAME "host"
#define PORT_HZ 100000000u

#endif
