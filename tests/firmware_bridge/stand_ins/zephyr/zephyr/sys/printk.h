/* A stand-in, see ../../../README.md. */
#pragma once
#include <stdio.h>

#define printk printf
