// On the audio thread: what the microphone gives, mixed down, handed over some hundredths of a second at a time.
const BLOCK = 1024; // samples

class Tap extends AudioWorkletProcessor {
    #block = new Float32Array(BLOCK);
    #filled = 0;

    process([channels]) {
        for (let i = 0; i < (channels[0]?.length ?? 0); i++) {
            let sum = 0;
            for (const samples of channels) sum += samples[i];
            this.#block[this.#filled++] = sum / channels.length;
            if (this.#filled === BLOCK) {
                this.port.postMessage({ sound: this.#block, time: currentTime });
                this.#filled = 0;
            }
        }
        return true;
    }
}

registerProcessor("tap", Tap);
