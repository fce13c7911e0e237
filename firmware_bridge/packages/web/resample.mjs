// The resampler of deploy/frontend/log_mel.py: torchaudio's windowed sinc. Products and sums are rounded to float32, tap after
// tap, as numpy's are, so that a recording becomes the same samples here as there.

const ZERO_CROSSINGS = 6;
const ROLLOFF = 0.99;

function greatestCommonDivisor(a, b) {
    return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** The filter's taps that are not zero, for each of `target` phases: the first one's place, and the weights. */
function sincFilter(source, target, width) {
    const base = Math.min(source, target) * ROLLOFF;
    return Array.from({ length: target }, (_, index) => {
        const phase = Math.fround(-index / target);
        const weights = [];
        let first = null;
        for (let tap = -width; tap <= source + width; tap++) {
            const t = (phase + tap / source) * base;
            if (Math.abs(t) >= ZERO_CROSSINGS) continue;
            first ??= tap;
            const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
            const hann = Math.cos((t * Math.PI) / ZERO_CROSSINGS / 2) ** 2;
            weights.push((sinc * hann * base) / source);
        }
        return { first, weights: Float32Array.from(weights) };
    });
}

/** A stream of float samples at one rate to one at another, in steps of the least whole number of both. */
export class Resampler {
    #source;
    #target;
    #width;
    #filter;
    #held; // the samples that the next step still needs

    constructor(sourceRate, targetRate) {
        const divisor = greatestCommonDivisor(sourceRate, targetRate);
        this.#source = sourceRate / divisor;
        this.#target = targetRate / divisor;
        this.#width = Math.ceil((ZERO_CROSSINGS * this.#source) / (Math.min(this.#source, this.#target) * ROLLOFF));
        this.#filter = sincFilter(this.#source, this.#target, this.#width);
        this.#held = new Float32Array(this.#width); // silence comes before the first
    }

    /** Take a Float32Array; the samples that it completes, Float32Array. */
    push(samples) {
        const reach = this.#source + 2 * this.#width + 1;
        const sound = new Float32Array(this.#held.length + samples.length);
        sound.set(this.#held);
        sound.set(samples, this.#held.length);
        const steps = Math.max(0, Math.floor((sound.length - reach) / this.#source) + 1);
        const made = new Float32Array(steps * this.#target);
        for (let step = 0, at = 0; step < steps; step++) {
            const origin = step * this.#source + this.#width;
            for (const { first, weights } of this.#filter) made[at++] = weightedSum(sound, origin + first, weights);
        }
        this.#held = sound.slice(steps * this.#source);
        return made;
    }

    /** A signal by itself, with silence on both sides: ceil(samples * target / source) samples, and no state is left. */
    whole(signal) {
        const padded = new Float32Array(signal.length + 2 * this.#source + 2 * this.#width + 1);
        padded.set(signal);
        const made = this.push(padded).slice(0, Math.ceil((signal.length * this.#target) / this.#source));
        this.#held = new Float32Array(this.#width);
        return made;
    }
}

function weightedSum(sound, start, weights) {
    let sum = 0;
    for (let k = 0; k < weights.length; k++) sum = Math.fround(sum + Math.fround(sound[start + k] * weights[k]));
    return sum;
}
