/* A stand-in, see ../README.md. */
#pragma once
#include "Arduino.h"

class PDMClass {
public:
    int begin(int channels, int sampleRate);
    int available();
    int read(void *buffer, size_t size);
    void onReceive(void (*function)(void));
    void setGain(int gain);
};

extern PDMClass PDM;
