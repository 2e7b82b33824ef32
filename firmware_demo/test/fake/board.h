/* A board of the tests': its time stands still until a test moves it. */
#ifndef BOARD_H
#define BOARD_H

#define PORT_NAME "fake"
#define PORT_HZ 1000000u

#endif
